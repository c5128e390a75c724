// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/moe/router.hpp"
#include "kokomoe/study/fidelity.hpp"

#include <memory>
#include <vector>

namespace kokomoe::study {

/// A router of the library in double, alone, as functions of host arrays: row t is one token with
/// logits of its own, in a sequence of its own.
class Gate {
 public:
  Gate(const EstimatorForm& form, int experts, int k, std::uint64_t seed);

  int experts() const { return experts_; }
  int k() const { return k_; }
  const EstimatorInfo& info() const { return info_; }

  /// Weights (T, k) of the choices (T, k) at the scales (T, k); nothing is drawn.
  void follow(const std::vector<double>& logits, const std::vector<int>& chosen,
              const std::vector<double>& scale, std::vector<double>& weight);
  /// Draws by itself; `step` keys the draws. Choices and weights (T, k).
  void draw(const std::vector<double>& logits, std::uint64_t step, std::vector<int>& chosen,
            std::vector<double>& weight);
  /// Probability of each row's choice in the last `follow` with scales of one, all rounds together.
  std::vector<double> choice_probability(const std::vector<double>& weight) const;
  /// dL/dlogits (T, E) of the last follow or draw. inner (T, E): <dL/dy, E_e>; loss (T).
  std::vector<double> backward(const std::vector<double>& inner, const std::vector<double>& loss);

 private:
  void set_rows(std::size_t rows);
  void read(std::vector<double>& weight, std::vector<int>* chosen);

  int experts_;
  int k_;
  ParameterStore<double> store_;
  std::unique_ptr<Router<double>> router_;
  EstimatorInfo info_;
  Communicator alone_;
  Arena saved_{"kokomoe::study::saved"}, scratch_{"kokomoe::study::scratch"};
  StepContext ctx_;
  Matrix<double> logits_;
  Routing<double> routing_;
  std::vector<int> chosen_;
};

}  // namespace kokomoe::study
