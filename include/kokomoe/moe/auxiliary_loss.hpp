// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/core/arena.hpp"
#include "kokomoe/core/types.hpp"
#include "kokomoe/moe/routing.hpp"
#include "kokomoe/parallel/step_context.hpp"

#include <span>
#include <vector>

namespace kokomoe {

/// Sums that one MoE layer gathers over its local tokens, on the device as one row of doubles:
///   [ assignments per expert (E) | probability per expert (E) | sum_t logsumexp(z_t)^2 |
///     sum_t of the router's own auxiliary loss ]
/// They add over ranks; everything reported about load and auxiliary losses follows from them.
struct LoadStatistics {
  static int width(int experts) { return 2 * experts + 2; }
  static int router_loss(int experts) { return 2 * experts + 1; }  ///< place in the row
};

/// Fills `statistics` (LoadStatistics::width(E)) from counts (E), probability (T, E) and logits
/// (T, >= E); without z-loss (`squares` false) its entry is 0, as is the router's own loss. An empty
/// probability counts as zeros.
template <class T>
void gather_statistics(const StepContext& ctx, const Vector<const int>& counts,
                       const Matrix<const T>& probability, const Matrix<const T>& logits,
                       bool squares, const Vector<double>& statistics);

/// Load balance (Switch, eq. 4): alpha E sum_e f_e P_e, with f_e the fraction of assignments and
/// P_e the mean probability. Writes its gradient d_probability(t, e) = alpha E f_e / tokens, where
/// f_e comes from `counts` (E), summed over ranks, and `tokens` is the update's global count.
template <class T>
void balance_gradient(const ExecutionSpace& space, double alpha, const Vector<const double>& counts,
                      double tokens, const Matrix<T>& d_probability);

/// (E) assignments that load and balance count: those of `routing.counted`, or all that were chosen,
/// whether or not a capacity dropped them.
template <class T>
Vector<int> count_assignments(const ExecutionSpace& space, Arena& arena,
                              const Routing<T>& routing);

/// (B, E) the same of each sequence, in ctx.saved. Throws Error when slots are in no token order.
template <class T>
Matrix<int> count_by_sequence(const StepContext& ctx, const Routing<T>& routing);

/// Balance of each sequence by itself (DeepSeek-V3, arXiv 2412.19437, eq. 17 to 20), averaged over
/// sequences by their tokens: ADDS alpha sum_t E sum_e f_e(sequence of t) P_te to sum (1).
template <class T>
void add_sequence_balance(const StepContext& ctx, double alpha, const Matrix<const int>& counts,
                          const Matrix<const T>& probability, const Vector<double>& sum);

/// WRITES its gradient alpha E f_e(sequence of t) / ctx.update_tokens.
template <class T>
void sequence_balance_gradient(const StepContext& ctx, double alpha,
                               const Matrix<const int>& counts, const Matrix<T>& d_probability);

/// Balance of this rank's micro-batch by itself: ADDS alpha T E sum_e f_e P_e to sum (1), with f
/// from counts (E) and P from the probability sums of `statistics`.
void add_local_balance(const StepContext& ctx, double alpha, const Vector<const double>& counts,
                       const Vector<const double>& statistics, const Vector<double>& sum);

/// z-loss (ST-MoE, arXiv 2202.08906, eq. 5): c mean_t logsumexp(z_t)^2. WRITES its gradient
/// 2 c lse softmax(z) / tokens to the first E columns of d_z, and zero elsewhere or when c = 0.
template <class T>
void z_loss_gradient(const ExecutionSpace& space, double c, const Matrix<const T>& z, int experts,
                     double tokens, const Matrix<T>& d_z);

/// What the statistics of one layer say, on the host.
struct LoadMetrics {
  std::vector<double> counts;        ///< assignments per expert
  double balance = 0;                ///< E sum f P, without alpha; 1 when balanced
  double z_square = 0;               ///< mean logsumexp^2
  double router_loss = 0;            ///< mean of the router's own auxiliary loss
  double entropy = 0;                ///< of the load, in nats; log E when balanced
  double largest_over_mean = 0;      ///< busiest expert over the mean; 1 when balanced
  int dead = 0;                      ///< experts without a token
};

/// `statistics`: one row summed over ranks; `tokens`: the tokens behind it. No tokens: all zero.
LoadMetrics load_metrics(std::span<const double> statistics, int experts, double tokens);
/// The same into `metrics`, whose memory is used again.
void load_metrics(std::span<const double> statistics, int experts, double tokens,
                  LoadMetrics& metrics);

}  // namespace kokomoe
