// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/moe/estimator.hpp"
#include "kokomoe/study/fidelity.hpp"

#include <cstdint>
#include <vector>

namespace kokomoe::study {

/// A random smooth loss of the outputs of one or two sites, all on the host in double:
///   f(y1, y2) = sum_m a_m sin(w_m . y1 + v_m . y2 + b_m).
/// Experts give vectors of size h; in layout `layers` the second site's logits are z2 + W y1 and its
/// experts h (c_e + tanh(A_e y1)).
class Problem {
 public:
  Problem(SiteLayout layout, int experts, int channels, std::uint64_t seed);

  int sites() const { return layout_ == SiteLayout::one ? 1 : 2; }
  SiteLayout layout() const { return layout_; }
  int experts() const { return experts_; }
  int channels() const { return channels_; }
  void set_scale(double h) { h_ = h; }

  /// Logits at rest of a site (E): for the second layer before W y1 is added.
  const std::vector<double>& logits(int site) const { return logits_[site]; }
  /// Logits of a site when the first gave y1.
  std::vector<double> logits_after(int site, const std::vector<double>& rest,
                                   const std::vector<double>& y1) const;
  /// Outputs (E, d) of a site's experts when the first site gave y1.
  std::vector<double> outputs(int site, const std::vector<double>& y1) const;
  /// f, and its gradients by y1 and y2 (either may be null).
  double loss(const std::vector<double>& y1, const std::vector<double>& y2,
              std::vector<double>* d1 = nullptr, std::vector<double>* d2 = nullptr) const;
  /// Layout layers: adds to d1 what reaches y1 through the second site: its logits' gradient d_z2
  /// (E) and its experts, of which `chosen` ran with `weight`.
  void add_through_second(const std::vector<double>& y1, const std::vector<int>& chosen,
                          const std::vector<double>& weight, const std::vector<double>& d2,
                          const std::vector<double>& d_z2, std::vector<double>& d1) const;

  /// The objective less f(0, 0), all choices and their probabilities enumerated from the definition,
  /// as a function of all logits (sites E).
  double objective(Objective objective, int k, const std::vector<double>& logits) const;
  /// Its gradient by central differences of order eight.
  std::vector<double> gradient(Objective objective, int k) const;

 private:
  SiteLayout layout_;
  int experts_;
  int channels_;
  double h_ = 1;
  std::vector<double> logits_[2];
  std::vector<double> expert_[2];            // (E, d)
  std::vector<double> mixing_, expert_mix_;  // W (E, d), A (E, d, d)
  std::vector<double> amplitude_, phase_, direction_[2];
};

/// All ordered choices of k different experts, (count, k).
std::vector<std::vector<int>> ordered_choices(int experts, int k);

}  // namespace kokomoe::study
