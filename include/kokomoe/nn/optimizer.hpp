// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/core/arena.hpp"
#include "kokomoe/parallel/expert_layout.hpp"
#include "kokomoe/parameters/parameter_store.hpp"

#include <cstdint>
#include <string>

namespace kokomoe {

/// Sums the trained gradients: replicated ones over all ranks, those of experts over the ranks
/// that hold the same experts. Losses carry the update's global scale already, and an expert has
/// seen the tokens of its whole group, so the sums are the whole batch's gradient.
template <class T>
void reduce_gradients(const ExecutionSpace& space, const ExpertLayout& layout,
                      ParameterStore<T>& store);

/// Euclidean norm of the trained gradients, in double, over fixed tiles: the same for any number
/// of threads. `experts`: the ranks that hold all experts once; each expert counts once. Copies
/// two numbers to the host and waits for them. Collective over `experts`.
template <class T>
double gradient_norm(const ExecutionSpace& space, Arena& scratch, const ParameterStore<T>& store,
                     const Communicator& experts = Communicator());

struct AdamWConfig {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0;  ///< decoupled; on slices that take decay
};

/// AdamW (Loshchilov and Hutter, arXiv 1711.05101): with g the gradient times `gradient_scale`,
///   m = b1 m + (1 - b1) g,  v = b2 v + (1 - b2) g^2,
///   p -= rate (m / (1 - b1^n) / (sqrt(v / (1 - b2^n)) + eps) + decay p),  n = update (from 1).
/// A tensor's rate is `rate` times ParameterStore's factor for it. One kernel for each range of a
/// buffer.
template <class T>
void adamw_step(const ExecutionSpace& space, const AdamWConfig& config, double rate,
                double gradient_scale, std::int64_t update, ParameterStore<T>& store);

struct SgdConfig {
  double momentum = 0.9;
  double weight_decay = 0;  ///< decoupled; on slices that take decay
};

/// Gradient descent with momentum (Polyak 1964): with g the gradient times `gradient_scale`,
///   m = momentum m + g,  p -= rate (m + decay p).
/// The second moments stay as they are.
template <class T>
void sgd_step(const ExecutionSpace& space, const SgdConfig& config, double rate,
              double gradient_scale, ParameterStore<T>& store);

/// The factor that clips a gradient of this norm to `limit` (0 = no clipping):
/// min(1, limit / (norm + 1e-6)).
double clip_factor(double norm, double limit);

/// Learning rate over the updates. All rise linearly from `start` to `peak` over `warmup` updates,
/// then stay (constant), fall as sqrt(warmup / n) (inverse_sqrt), or fall to `minimum` at `total`
/// along half a cosine (cosine) or a line (linear).
struct Schedule {
  enum class Kind { constant, inverse_sqrt, cosine, linear };
  Kind kind = Kind::constant;
  double peak = 1e-3;
  double start = 0;
  double minimum = 0;
  std::int64_t warmup = 0;
  std::int64_t total = 0;

  /// Rate of update n = 1, 2, ...
  double rate(std::int64_t n) const;
};

/// "constant", "inverse_sqrt", "cosine" or "linear"; throws InputError.
Schedule::Kind parse_schedule(const std::string& name);

}  // namespace kokomoe
