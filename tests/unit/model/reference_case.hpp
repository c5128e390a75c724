// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/model/decoder_lm.hpp"
#include "kokomoe/nn/cross_entropy.hpp"
#include "kokomoe/nn/optimizer.hpp"
#include "support/packed_step.hpp"
#include "support/reference_file.hpp"

#include <memory>
#include <string>
#include <vector>

namespace kokomoe::test {

inline const testing::ReferenceFile& language_model_reference() {
  static const testing::ReferenceFile file(std::string(KOKOMOE_TEST_FOLDER) +
                                           "/reference/language_model.kkref");
  return file;
}

/// One case of language_model.kkref as the library's own objects.
template <class T>
class ReferenceCase {
 public:
  explicit ReferenceCase(const std::string& name)
      : file(language_model_reference()), name_(name), config(read_config()) {
    const auto integer = [&](const char* key) { return static_cast<int>(number(key)); };
    const std::vector<std::int64_t> index = file.i8(at("sequence_index"));
    const std::vector<int> targets = file.i4(at("targets"));
    step = std::make_unique<PackedStep>(file.i4(at("ids")), targets, file.i4(at("offsets")),
                                        std::vector<std::uint32_t>(index.begin(), index.end()),
                                        file.i4(at("position")));
    step->ctx.seed = static_cast<std::uint64_t>(file.i8(at("config/seed"))[0]);
    step->ctx.step = 0;
    optimizer = {number("beta1"), number("beta2"), number("epsilon"), number("weight_decay")};
    model = std::make_unique<DecoderLm<T>>(config, store);
    store.allocate(step->ctx.space, 99);
    for (const auto& entry : store.entries())
      fill_device(store.value_vector(store.find(entry.spec.name)),
                  file.real<T>(at("initial/" + entry.spec.name)));
    if (model->moe_layers() > 0)
      statistics =
          Matrix<double>("kokomoe::test::statistics", static_cast<std::size_t>(model->moe_layers()),
                         static_cast<std::size_t>(LoadStatistics::width(integer("experts"))));
  }

  std::string at(const std::string& record) const { return name_ + "/" + record; }
  double number(const std::string& key) const { return file.scalar(at("config/" + key)); }

  Matrix<T> forward() {
    step->reset();
    return model->forward(step->ctx, saved, statistics);
  }

  /// Forward of step `n`, losses {total, task, auxiliary} and all gradients.
  std::vector<double> forward_backward(std::uint64_t n, std::vector<T>* logits_out = nullptr) {
    step->ctx.step = n;
    store.begin_update();
    const Matrix<T> logits = forward();
    if (logits_out != nullptr) *logits_out = on_host(logits);
    const Vector<double> sums = step->scratch.vector<double>(CrossEntropySums::width);
    cross_entropy<T>(step->ctx, logits, step->ctx.tokens.targets, number("label_smoothing"), true,
                     sums);
    const double task = on_host(sums)[0] * step->ctx.loss_scale;
    model->backward(step->ctx, saved, logits);
    store.finish_gradients(step->ctx.space);
    double auxiliary = 0;
    const std::vector<double> rows = on_host(statistics);
    for (std::size_t l = 0; l < statistics.extent(0); ++l) {
      const LoadMetrics load = load_metrics(
          std::span<const double>(rows).subspan(l * statistics.extent(1), statistics.extent(1)),
          config.moe.experts, step->ctx.update_tokens);
      auxiliary += config.moe.balance * load.balance + config.moe.z_loss * load.z_square;
    }
    return {task + auxiliary, task, auxiliary};
  }

  const testing::ReferenceFile& file;

 private:
  std::string name_;

 public:
  DecoderConfig config;
  AdamWConfig optimizer;
  ParameterStore<T> store;
  std::unique_ptr<DecoderLm<T>> model;
  std::unique_ptr<PackedStep> step;
  Matrix<double> statistics;
  typename DecoderLm<T>::Saved saved;

 private:
  DecoderConfig read_config() const {
    const auto integer = [&](const char* key) { return static_cast<int>(number(key)); };
    DecoderConfig c;
    c.vocabulary = integer("vocabulary");
    c.layers = integer("layers");
    c.heads = integer("heads");
    c.max_length = integer("max_positions");
    c.bias = integer("bias") != 0;
    c.tied = integer("tied") != 0;
    c.moe_every = integer("every");
    c.moe.d_model = integer("d_model");
    c.moe.d_hidden = integer("d_hidden");
    c.moe.experts = integer("experts");
    c.moe.k = integer("k");
    c.moe.bias = c.bias;
    c.moe.output_gain = integer("omega") != 0;
    c.moe.balance = number("balance");
    c.moe.z_loss = number("z_loss");
    // The words are in the table of tests/reference/README.md only.
    const char letter = name_[0];
    c.norm = letter == 'B' || letter == 'D' ? NormKind::layer : NormKind::rms;
    c.positions = letter == 'B' || letter == 'F' ? Positions::learned : Positions::rotary;
    c.moe.activation = letter == 'A' || letter == 'D'   ? Activation::swiglu
                       : letter == 'C' || letter == 'E' ? Activation::gelu
                                                        : Activation::relu;
    if (letter == 'A') {
      c.moe.router = "sparsemixer";
      c.moe.options.set("mask_eps", number("mask_eps"));
      c.moe.options.set("grad_factor", number("grad_factor"));
    } else if (letter == 'B') {
      c.moe.router = "switch";
      c.moe.options.set("jitter", number("jitter"));
    } else if (letter == 'F') {
      c.moe.router = "dense_mixture";
    } else {
      c.moe.router = "top_k";
      c.moe.options.set("softmax", std::string(letter == 'D' ? "after" : "before"));
    }
    if (letter == 'F') c.moe.k = 1;
    return c;
  }
};

}  // namespace kokomoe::test
