// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/nn/optimizer.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/nn/ordered_norm.hpp"

#include <algorithm>
#include <cmath>

namespace kokomoe {

namespace {

template <class T>
using Group = typename ParameterStore<T>::Group;

template <class T>
void adamw_range(const ExecutionSpace& space, const typename ParameterStore<T>::Buffer& buffer,
                 const typename ParameterStore<T>::Range& range, const AdamWConfig& config,
                 double rate, double gradient_scale, std::int64_t update) {
  rate *= range.rate;
  const double decay = range.decay ? config.weight_decay : 0;
  const Vector<T> value = buffer.value, m = buffer.moment1, v = buffer.moment2;
  const Vector<const T> gradient = buffer.gradient;
  const double n = static_cast<double>(update);
  const T b1 = static_cast<T>(config.beta1), b2 = static_cast<T>(config.beta2);
  const T c1 = static_cast<T>(1 - config.beta1), c2 = static_cast<T>(1 - config.beta2);
  const T step = static_cast<T>(rate / (1 - std::pow(config.beta1, n)));
  const T root = static_cast<T>(1 / std::sqrt(1 - std::pow(config.beta2, n)));
  const T epsilon = static_cast<T>(config.epsilon), scale = static_cast<T>(gradient_scale);
  const T keep = static_cast<T>(1 - rate * decay);
  Kokkos::parallel_for(
      KOKOMOE_LABEL("nn::adamw"),
      Kokkos::RangePolicy<ExecutionSpace>(space, range.begin, range.end),
      KOKKOS_LAMBDA(const std::size_t i) {
        const T g = scale * gradient(i);
        m(i) = b1 * m(i) + c1 * g;
        v(i) = b2 * v(i) + c2 * g * g;
        value(i) = keep * value(i) - step * m(i) / (Kokkos::sqrt(v(i)) * root + epsilon);
      });
}

template <class T>
void sgd_range(const ExecutionSpace& space, const typename ParameterStore<T>::Buffer& buffer,
               const typename ParameterStore<T>::Range& range, const SgdConfig& config, double rate,
               double gradient_scale) {
  rate *= range.rate;
  const double decay = range.decay ? config.weight_decay : 0;
  const Vector<T> value = buffer.value, m = buffer.moment1;
  const Vector<const T> gradient = buffer.gradient;
  const T keep_m = static_cast<T>(config.momentum), step = static_cast<T>(rate);
  const T scale = static_cast<T>(gradient_scale), keep = static_cast<T>(1 - rate * decay);
  Kokkos::parallel_for(
      KOKOMOE_LABEL("nn::sgd"), Kokkos::RangePolicy<ExecutionSpace>(space, range.begin, range.end),
      KOKKOS_LAMBDA(const std::size_t i) {
        m(i) = keep_m * m(i) + scale * gradient(i);
        value(i) = keep * value(i) - step * m(i);
      });
}

}  // namespace

template <class T>
void reduce_gradients(const ExecutionSpace& space, const ExpertLayout& layout,
                      ParameterStore<T>& store) {
  const auto sum = [&](const Communicator& ranks, Group<T> group) {
    const auto& buffer = store.buffer(group);
    if (store.sums_exactly()) {
      using Limbs = Vector<std::int64_t>;
      ranks.all_reduce_sum(space, Limbs(buffer.high.data(), buffer.trained));
      ranks.all_reduce_sum(space, Limbs(buffer.low.data(), buffer.trained));
    } else {
      ranks.all_reduce_sum(space, Vector<T>(buffer.gradient.data(), buffer.trained));
    }
  };
  sum(layout.world, Group<T>::replicated);
  sum(layout.replicas, Group<T>::expert);
  if (!store.sums_exactly()) return;
  layout.world.all_reduce_sum(space, store.outside());
  store.round_gradients(space);
}

template <class T>
double gradient_norm(const ExecutionSpace& space, Arena& scratch, const ParameterStore<T>& store,
                     const Communicator& experts) {
  if (store.sums_exactly()) return ordered_gradient_norm<T>(space, scratch, store, experts);
  constexpr std::size_t tile = 4096;
  ArenaScope scope(scratch);
  const auto& replicated = store.buffer(Group<T>::replicated);
  const auto& expert = store.buffer(Group<T>::expert);
  const std::size_t first = (replicated.trained + tile - 1) / tile;
  const std::size_t tiles = first + (expert.trained + tile - 1) / tile;
  const Vector<double> partial = scratch.vector<double>(tiles + 2);
  const Vector<const T> a = replicated.gradient, b = expert.gradient;
  const std::size_t a_size = replicated.trained, b_size = expert.trained;
  Kokkos::parallel_for(
      KOKOMOE_LABEL("nn::gradient_norm::tiles"),
      Kokkos::RangePolicy<ExecutionSpace>(space, 0, tiles), KOKKOS_LAMBDA(const std::size_t i) {
        const bool in_a = i < first;
        const std::size_t begin = (in_a ? i : i - first) * tile;
        const std::size_t size = in_a ? a_size : b_size;
        const std::size_t end = begin + tile < size ? begin + tile : size;
        const T* const g = in_a ? a.data() : b.data();
        double sum = 0;
#pragma omp simd reduction(+ : sum)
        for (std::size_t j = begin; j < end; ++j)
          sum += static_cast<double>(g[j]) * static_cast<double>(g[j]);
        partial(i) = sum;
      });
  Kokkos::parallel_for(
      KOKOMOE_LABEL("nn::gradient_norm::total"), Kokkos::RangePolicy<ExecutionSpace>(space, 0, 2),
      KOKKOS_LAMBDA(const std::size_t group) {
        double sum = 0;
        for (std::size_t i = group == 0 ? 0 : first; i < (group == 0 ? first : tiles); ++i)
          sum += partial(i);
        partial(tiles + group) = sum;
      });
  double squares[2] = {0, 0};
  using Host = Kokkos::View<double*, Kokkos::LayoutRight, Kokkos::HostSpace>;
  Kokkos::deep_copy(space, Host(squares, 2), Vector<const double>(partial.data() + tiles, 2));
  space.fence(KOKOMOE_LABEL("nn::gradient_norm"));
  experts.all_reduce_sum(&squares[1], 1);
  return std::sqrt(squares[0] + squares[1]);
}

template <class T>
void adamw_step(const ExecutionSpace& space, const AdamWConfig& config, double rate,
                double gradient_scale, std::int64_t update, ParameterStore<T>& store) {
  for (const auto group : {Group<T>::replicated, Group<T>::expert}) {
    const auto& buffer = store.buffer(group);
    for (const auto& range : buffer.ranges)
      adamw_range<T>(space, buffer, range, config, rate, gradient_scale, update);
  }
  store.round_values(space);
}

template <class T>
void sgd_step(const ExecutionSpace& space, const SgdConfig& config, double rate,
              double gradient_scale, ParameterStore<T>& store) {
  for (const auto group : {Group<T>::replicated, Group<T>::expert}) {
    const auto& buffer = store.buffer(group);
    for (const auto& range : buffer.ranges)
      sgd_range<T>(space, buffer, range, config, rate, gradient_scale);
  }
  store.round_values(space);
}

double clip_factor(double norm, double limit) {
  return limit > 0 ? std::min(1.0, limit / (norm + 1e-6)) : 1.0;
}

double Schedule::rate(std::int64_t n) const {
  const double update = static_cast<double>(n), warm = static_cast<double>(warmup);
  if (n < warmup) return start + (peak - start) * update / warm;
  if (kind == Kind::constant) return peak;
  if (kind == Kind::inverse_sqrt) return peak * std::sqrt(std::max(warm, 1.0) / update);
  const double length = static_cast<double>(std::max<std::int64_t>(1, total - warmup));
  const double done = std::clamp((update - warm) / length, 0.0, 1.0);
  const double left =
      kind == Kind::linear ? 1 - done : 0.5 * (1 + std::cos(3.14159265358979323846 * done));
  return minimum + (peak - minimum) * left;
}

Schedule::Kind parse_schedule(const std::string& name) {
  if (name == "constant") return Schedule::Kind::constant;
  if (name == "inverse_sqrt") return Schedule::Kind::inverse_sqrt;
  if (name == "cosine") return Schedule::Kind::cosine;
  if (name == "linear") return Schedule::Kind::linear;
  throw InputError("unknown schedule \"" + name +
                   "\": choose constant, inverse_sqrt, cosine or linear");
}

#define KOKOMOE_INSTANTIATE(T)                                                              \
  template void reduce_gradients<T>(const ExecutionSpace&, const ExpertLayout&,             \
                                    ParameterStore<T>&);                                    \
  template double gradient_norm<T>(const ExecutionSpace&, Arena&, const ParameterStore<T>&, \
                                   const Communicator&);                                    \
  template void adamw_step<T>(const ExecutionSpace&, const AdamWConfig&, double, double,    \
                              std::int64_t, ParameterStore<T>&);                            \
  template void sgd_step<T>(const ExecutionSpace&, const SgdConfig&, double, double,        \
                            ParameterStore<T>&);
KOKOMOE_INSTANTIATE(float)
KOKOMOE_INSTANTIATE(double)
#undef KOKOMOE_INSTANTIATE

}  // namespace kokomoe
