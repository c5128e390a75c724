// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/moe/row_travel.hpp"

#include "kokomoe/core/row_kernels.hpp"

#include <algorithm>

namespace kokomoe {

namespace {

/// The blocks of a plan, (local expert, source), as kernels see them.
struct Blocks {
  Vector<const int> row, arrival;
  int sources = 1, first = 0, end = 0;  ///< blocks [first, end) are looked at

  /// The last block that begins at or before sorted row r: empty ones begin where the next does.
  KOKKOS_INLINE_FUNCTION int of(int r) const {
    int low = first, high = end;
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      if (row(middle) <= r)
        low = middle;
      else
        high = middle;
    }
    return low;
  }
};

Blocks blocks_of(const ExchangePlan& plan, int first_expert, int end_expert) {
  return {plan.block_row, plan.block_arrival, plan.ranks, first_expert * plan.ranks,
          end_expert * plan.ranks};
}

/// Rows [begin, end) from the order of arrival to that by (local expert, source), or back.
template <class T>
void sort_rows(const ExecutionSpace& space, const Blocks& blocks, int begin, int end, bool back,
               const Matrix<const T>& from, const Matrix<T>& to) {
  const int columns = static_cast<int>(to.extent(1));
  for_each_row(
      KOKOMOE_LABEL("moe::exchange::sort"), space, end - begin, KOKKOS_LAMBDA(const Row& row) {
        const int r = begin + row.index(), b = blocks.of(r);
        const int arrived = blocks.arrival(b) + r - blocks.row(b);
        const T* const x = &from(back ? r : arrived, 0);
        T* const y = &to(back ? arrived : r, 0);
        row.each(columns, [&](const int j) { y[j] = x[j]; });
      });
}

}  // namespace

void local_expert_of_rows(const ExecutionSpace& space, const ExchangePlan& plan,
                          const Vector<int>& expert) {
  const Blocks blocks = blocks_of(plan, 0, plan.owned.size());
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::exchange::expert_of_row"),
      Kokkos::RangePolicy<ExecutionSpace>(space, 0, expert.extent(0)),
      KOKKOS_LAMBDA(const int r) { expert(r) = blocks.of(r) / blocks.sources; });
}

template <class T>
RowTravel<T>::RowTravel(const ExecutionSpace& space, ExpertExchange& exchange,
                        const ExchangePlan& plan, const Matrix<T>& at_tokens,
                        const Matrix<T>& at_experts, const Matrix<T>& unsorted)
    : space_(space),
      exchange_(exchange),
      plan_(plan),
      at_tokens_(at_tokens),
      at_experts_(at_experts),
      unsorted_(unsorted),
      tickets_(static_cast<std::size_t>(plan.chunks), -1) {}

template <class T>
void RowTravel<T>::start(int chunk, Way way, bool wait) {
  const Matrix<T>& there = sorted(chunk) ? at_experts_ : unsorted_;
  const bool back = way == Way::back;
  if (back && !sorted(chunk)) sort(chunk, true);
  tickets_[static_cast<std::size_t>(chunk)] = exchange_.begin(
      space_, plan_, chunk, way, back ? there.data() : at_tokens_.data(),
      back ? at_tokens_.data() : there.data(), at_tokens_.extent(1) * sizeof(T), wait);
}

template <class T>
void RowTravel<T>::finish(int chunk, Way way) {
  exchange_.finish(space_, tickets_[static_cast<std::size_t>(chunk)]);
  if (way == Way::to_experts && !sorted(chunk)) sort(chunk, false);
}

template <class T>
void RowTravel<T>::sort(int chunk, bool back) {
  const int first = plan_.first_expert(chunk), end = plan_.first_expert(chunk + 1);
  sort_rows<T>(space_, blocks_of(plan_, first, end),
               plan_.expert_offsets[static_cast<std::size_t>(first)],
               plan_.expert_offsets[static_cast<std::size_t>(end)], back,
               back ? at_experts_ : unsorted_, back ? unsorted_ : at_experts_);
}

template <class T>
Matrix<T> RowTravel<T>::unsorted_rows(Arena& scratch, const ExchangePlan& plan,
                                      std::size_t columns) {
  const bool none = std::all_of(plan.sorted_on_arrival.begin(), plan.sorted_on_arrival.end(),
                                [](unsigned char sorted) { return sorted != 0; });
  return scratch.matrix<T>(none ? 0 : static_cast<std::size_t>(plan.rows_received()), columns);
}

template class RowTravel<float>;
template class RowTravel<double>;
template class RowTravel<std::uint32_t>;  // whose a row is

}  // namespace kokomoe
