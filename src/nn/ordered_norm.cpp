// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/nn/ordered_norm.hpp"

#include <cmath>
#include <vector>

namespace kokomoe {

namespace {

/// pieces(i) = sum of squares of the i-th of equal pieces of a slice, over tiles in order.
template <class T>
void square_pieces(const ExecutionSpace& space, Arena& scratch, const Vector<const T>& values,
                   const Vector<double>& pieces) {
  constexpr std::size_t tile = 4096;
  const std::size_t count = pieces.extent(0);
  if (count == 0) return;
  const std::size_t size = values.extent(0) / count, tiles = (size + tile - 1) / tile;
  ArenaScope scope(scratch);
  const Vector<double> partial = scratch.vector<double>(count * tiles);
  Kokkos::parallel_for(
      KOKOMOE_LABEL("nn::ordered_norm::tiles"),
      Kokkos::RangePolicy<ExecutionSpace>(space, 0, count * tiles),
      KOKKOS_LAMBDA(const std::size_t i) {
        const std::size_t begin = i % tiles * tile;
        const std::size_t length = begin + tile < size ? tile : size - begin;
        const T* const g = values.data() + i / tiles * size + begin;
        double sum = 0;
#pragma omp simd reduction(+ : sum)
        for (std::size_t j = 0; j < length; ++j)
          sum += static_cast<double>(g[j]) * static_cast<double>(g[j]);
        partial(i) = sum;
      });
  Kokkos::parallel_for(
      KOKOMOE_LABEL("nn::ordered_norm::pieces"),
      Kokkos::RangePolicy<ExecutionSpace>(space, 0, count), KOKKOS_LAMBDA(const std::size_t p) {
        double sum = 0;
        for (std::size_t i = p * tiles; i < (p + 1) * tiles; ++i) sum += partial(i);
        pieces(p) = sum;
      });
}

}  // namespace

template <class T>
double ordered_gradient_norm(const ExecutionSpace& space, Arena& scratch,
                             const ParameterStore<T>& store, const Communicator& experts) {
  using Group = typename ParameterStore<T>::Group;
  struct Place {
    ParameterHandle handle;
    std::size_t first, own, begin, all;  ///< sums [first, first + all), ours [begin, begin + own)
    bool shared;                         ///< every rank has it
  };
  std::vector<Place> places;
  std::size_t size = 0;
  for (int i = 0; i < static_cast<int>(store.entries().size()); ++i) {
    const auto& entry = store.entry({i});
    if (entry.frozen || entry.group == Group::state) continue;
    const bool expert = entry.group == Group::expert;
    const std::size_t all = expert ? entry.spec.shape[0] : 1;
    const ExpertRange range = store.experts(static_cast<int>(all));
    const std::size_t own = expert ? entry.local_shape[0] : 1;
    places.push_back(
        {{i}, size, own, expert ? static_cast<std::size_t>(range.begin) : 0, all, !expert});
    size += all;
  }
  ArenaScope scope(scratch);
  const Vector<double> sums = scratch.vector<double>(size);
  Kokkos::deep_copy(space, sums, 0.0);
  for (const Place& place : places)
    square_pieces<T>(space, scratch, store.gradient_vector(place.handle),
                     Vector<double>(sums.data() + place.first + place.begin, place.own));
  std::vector<double> host(size);
  Kokkos::deep_copy(
      space, Kokkos::View<double*, Kokkos::LayoutRight, Kokkos::HostSpace>(host.data(), size),
      sums);
  space.fence(KOKOMOE_LABEL("nn::ordered_norm"));
  // One rank gives each sum and the others zero: adding those changes nothing.
  for (const Place& place : places)
    if (place.shared && !experts.is_root()) host[place.first] = 0;
  experts.all_reduce_sum(host.data(), host.size());
  double total = 0;
  for (const double square : host) total += square;
  return std::sqrt(total);
}

#define KOKOMOE_INSTANTIATE(T)                                            \
  template double ordered_gradient_norm<T>(const ExecutionSpace&, Arena&, \
                                           const ParameterStore<T>&, const Communicator&);
KOKOMOE_INSTANTIATE(float)
KOKOMOE_INSTANTIATE(double)
#undef KOKOMOE_INSTANTIATE

}  // namespace kokomoe
