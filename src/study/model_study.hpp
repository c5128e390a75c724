// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/data/device_batch.hpp"
#include "kokomoe/model/decoder_lm.hpp"
#include "kokomoe/study/fidelity.hpp"
#include "kokomoe/train/language_model_deck.hpp"
#include "study/host_copies.hpp"

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace kokomoe::study {

/// A model's parameters as host arrays in double, by name.
struct ModelParameters {
  std::vector<std::pair<std::string, std::vector<double>>> tensors;

  template <class T>
  explicit ModelParameters(const ParameterStore<T>& store) {
    for (std::size_t i = 0; i < store.entries().size(); ++i) {
      const auto& entry = store.entries()[i];
      if (entry.size == 0) continue;
      const std::vector<T> values = to_host(store.value_vector({static_cast<int>(i)}));
      tensors.emplace_back(entry.spec.name, std::vector<double>(values.begin(), values.end()));
    }
  }
};

/// A language model in double with one of the estimators as its router, and one short sequence.
class ModelStudy {
 public:
  /// InputError when the model cannot be studied with this estimator.
  ModelStudy(const FidelityConfig& study, const LanguageModelConfig& config,
             const EstimatorForm& form, const ModelParameters& parameters,
             const HostBatch& sequence);

  /// Numbers of the MoE blocks.
  const std::vector<int>& layers() const { return layers_; }
  const EstimatorInfo& info() const { return info_; }

  /// Gradients (layer, E d) of the routers' weights for one draw of everything: the estimator's,
  /// the exact one with all other choices replayed, and the exact one with the later layers' drawn
  /// again.
  struct Sample {
    std::vector<std::vector<double>> estimate, exact, redrawn;
  };
  Sample sample(int number);

 private:
  /// One recorded layer on the host.
  struct HostRouting {
    std::vector<int> expert;
    std::vector<double> scale, probability;
    std::vector<unsigned char> kept;
    int slots_per_token = 1;
  };
  /// One counterfactual sequence: token `site` of the layer takes `expert` at `scale`.
  struct Counterfactual {
    std::size_t site;
    int expert;
    double scale;
  };

  StepContext context(const HostBatch& batch, DeviceBatch& device, std::uint32_t replica);
  /// Draws everything, keeps routings and inputs, and gives the estimator's gradients.
  void record(int number, std::vector<std::vector<double>>& estimate);
  Routing<double> tiled(const HostRouting& recorded, std::size_t copies,
                        const std::vector<Counterfactual>* changes) const;
  std::vector<double> counterfactual_losses(std::size_t layer, int number, bool redraw,
                                            const std::vector<Counterfactual>& changes);
  /// dL/dW of one layer, site by site, from counterfactual forwards.
  std::vector<double> exact(std::size_t layer, int number, bool redraw);

  DecoderConfig config_;
  ExecutionSpace space_;
  ParameterStore<double> store_;
  DecoderLm<double> model_;
  std::uint64_t seed_;
  HostBatch sequence_;
  Communicator alone_;
  Arena saved_{"kokomoe::study::saved"}, scratch_{"kokomoe::study::scratch"};
  DecoderLm<double>::Saved state_, wide_state_;
  DeviceBatch device_, wide_device_;
  EstimatorInfo info_;
  std::vector<int> layers_;
  std::vector<HostRouting> routings_;
  std::vector<std::vector<double>> inputs_;
};

}  // namespace kokomoe::study
