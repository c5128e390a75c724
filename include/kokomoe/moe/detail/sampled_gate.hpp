// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/moe/router_registry.hpp"

namespace kokomoe::detail {

/// Whether an expert is too far from the best to take part: (m - z) / max(|z|, m) > 2 eps
/// (SparseMixer's published code), or m - z > 2 eps (|z| + |m|) (GRIN's text). eps 0: no mask.
struct DistanceMask {
  double eps = 0;
  bool sum = false;

  explicit DistanceMask(const RouterOptions& options)
      : eps(options.real("mask_eps")), sum(options.text("mask") == "sum") {}

  template <class T>
  KOKKOS_INLINE_FUNCTION bool keeps(T value, T maximum) const {
    if (eps == 0) return true;
    const T eps2 = static_cast<T>(2 * eps), size = Kokkos::abs(value);
    // 0 / 0 and inf / inf are NaN, compare false, and keep the expert.
    if (sum) return !(maximum - value > eps2 * (size + Kokkos::abs(maximum)));
    return !((maximum - value) / (size > maximum ? size : maximum) > eps2);
  }
};

/// One token's logits in round r: those of the experts that rounds before did not choose, with
/// LogitRow's meaning for infinities and NaN among them.
template <class T>
class RoundRow {
 public:
  KOKKOS_INLINE_FUNCTION RoundRow(const T* z, int experts, const int* chosen, int round)
      : z_(z), experts_(experts), chosen_(chosen), round_(round) {
    constexpr T infinity = Kokkos::Experimental::infinity_v<T>;
    for (int e = 0; e < experts; ++e) {
      if (taken(e)) continue;
      if (argmax_ < 0 || z[e] > z[argmax_] || (z[argmax_] != z[argmax_] && z[e] == z[e]))
        argmax_ = e;
    }
    raw_maximum_ = z[argmax_];
    infinite_ = raw_maximum_ == infinity || raw_maximum_ == -infinity;
    maximum_ = infinite_ ? T(0) : raw_maximum_;
  }

  KOKKOS_INLINE_FUNCTION bool taken(int e) const {
    for (int r = 0; r < round_; ++r)
      if (chosen_[r] == e) return true;
    return false;
  }
  /// Of an expert that is not taken.
  KOKKOS_INLINE_FUNCTION T value(int e) const {
    if (!infinite_ || z_[e] != z_[e]) return z_[e];
    return z_[e] == raw_maximum_ ? T(0) : -Kokkos::Experimental::infinity_v<T>;
  }
  KOKKOS_INLINE_FUNCTION T maximum() const { return maximum_; }
  KOKKOS_INLINE_FUNCTION int argmax() const { return argmax_; }
  KOKKOS_INLINE_FUNCTION int experts() const { return experts_; }

 private:
  const T* z_;
  int experts_;
  const int* chosen_;
  int round_;
  int argmax_ = -1;
  bool infinite_;
  T raw_maximum_;
  T maximum_;
};

/// A token's draws.
template <class T>
struct TokenDraws {
  Vector<const std::uint32_t> sequence;
  Vector<const int> position;
  PhiloxStream gumbel, coin;

  /// Gumbel-max: argmax of z_e / temperature - log(-log u_e) over the experts that `kept(e)` is
  /// true for is a draw from their softmax. Uses draws round E + e.
  template <class Kept>
  KOKKOS_INLINE_FUNCTION int expert(int t, const RoundRow<T>& row, int round, T inverse_temperature,
                                    const Kept& kept) const {
    int best = -1;
    T best_score = 0;
    PhiloxBlock block{};
    for (int e = 0; e < row.experts(); ++e) {
      const auto draw = static_cast<std::uint32_t>(round * row.experts() + e);
      if (e == 0 || draw % 4 == 0)
        block = gumbel.block(sequence(t), static_cast<std::uint32_t>(position(t)), draw / 4);
      if (!kept(e)) continue;
      const T u = open_uniform<T>(block.word[draw % 4]);
      const T score = row.value(e) * inverse_temperature - Kokkos::log(-Kokkos::log(u));
      // The last term: a NaN that came first gives way.
      if (best < 0 || score > best_score || (best_score != best_score && score == score)) {
        best = e;
        best_score = score;
      }
    }
    return best;
  }

  KOKKOS_INLINE_FUNCTION T coin_of(int t, int round) const {
    return coin.template uniform<T>(sequence(t), static_cast<std::uint32_t>(position(t)),
                                    static_cast<std::uint32_t>(round));
  }
};

/// The options of the mask and of sampling, which every sampled router takes.
std::vector<RouterOption> sampling_options(double mask_eps);

/// What tells one sampled gate from another.
struct SampledGateRule {
  const char* name;
  const char* summary;
  const char* paper;
  ScaleLaw scale{};        ///< its argmax_exception is the option's default
  double grad_factor = 2;  ///< default of the option
  double mask_eps = 0.1;   ///< default of the option
  double temperature = 0;  ///< default of the option; 0 = there is none
  bool unmasked_balance = false;  ///< the load-balance loss averages the plain softmax
  bool output_gain = false;       ///< default of moe/output_gain
};

RouterInfo sampled_gate_info(const SampledGateRule& rule);

/// The sampled gate of objective A, E_{D~p}[ f(p_D E_D) ], in rounds r = 1..k. A round leaves out
/// what was chosen before, masks what is far from the best m of the rest, and takes p = softmax
/// (z / temperature) over the kept:
///   training: D ~ p, weight s p_D with s drawn by the rule's ScaleLaw
///   backward: dL/dp_D = grad_factor dL/dweight whatever s was, then the softmax Jacobian
///   evaluation: D = the round's argmax, weight p_D
/// Weights are not renormalised. The k weights are slots t k + r; `kept` is (T, k E), column
/// r E + e; `probability` holds round 1's p. arXiv 2310.00811, 2409.12136.
template <class T>
class SampledGateRouter : public Router<T> {
 public:
  int max_slots(int tokens) const override { return tokens * this->place_.k; }
  Routing<T> route_logits(const StepContext& ctx, const Matrix<const T>& z,
                          const Routing<T>* replay) const override;
  void logits_backward(const StepContext& ctx, const Matrix<const T>& z,
                       const Routing<T>& routing, const RouterFeedback<T>& feedback,
                       const Matrix<T>& d_z) const override;
  EstimatorInfo estimator() const override;
  bool weights_expert_gradients() const override { return probability_gradient_; }

  /// The same with score (T) times d log p_D of every round added; empty = none.
  void backward(const StepContext& ctx, const Matrix<const T>& z, const Routing<T>& routing,
                const RouterFeedback<T>& feedback, const Vector<const T>& score,
                const Matrix<T>& d_z) const;

 protected:
  SampledGateRouter(const SampledGateRule& rule, const RouterPlace& place,
                    const RouterOptions& options, ParameterStore<T>& store);

  double grad_factor() const { return grad_factor_; }

 private:
  DistanceMask mask_;
  ScaleLaw scale_;
  double grad_factor_;
  double temperature_;
  bool sampling_;
  bool probability_gradient_;  ///< the expert receives p_D dL/dy instead of s p_D dL/dy
  bool unmasked_balance_;
};

}  // namespace kokomoe::detail
