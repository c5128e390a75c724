// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/core/arena.hpp"
#include "kokomoe/core/types.hpp"
#include "kokomoe/parallel/expert_exchange.hpp"

#include <vector>

namespace kokomoe {

/// Rows (n, d) on their way between this rank's tokens and the ranks of their experts, part by part.
template <class T>
class RowTravel {
 public:
  using Way = ExpertExchange::Way;

  /// `at_tokens` (plan.rows_sent(), d): sorted by global expert. `at_experts`
  /// (plan.rows_received(), d): sorted by (local expert, source rank). `unsorted`: memory for parts
  /// that arrive in another order, see `unsorted_rows`. All of them and the plan outlive it.
  RowTravel(const ExecutionSpace& space, ExpertExchange& exchange, const ExchangePlan& plan,
            const Matrix<T>& at_tokens, const Matrix<T>& at_experts, const Matrix<T>& unsorted);

  /// Starts a part; its rows may not be touched before it is finished. `wait`: nothing else is to
  /// be done meanwhile. Collective.
  void start(int chunk, Way way, bool wait);
  void finish(int chunk, Way way);

  /// (plan.rows_received(), columns), or no rows where every part arrives sorted.
  static Matrix<T> unsorted_rows(Arena& scratch, const ExchangePlan& plan, std::size_t columns);

 private:
  bool sorted(int chunk) const {
    return plan_.sorted_on_arrival[static_cast<std::size_t>(chunk)] != 0;
  }
  void sort(int chunk, bool back);

  const ExecutionSpace& space_;
  ExpertExchange& exchange_;
  const ExchangePlan& plan_;
  Matrix<T> at_tokens_, at_experts_, unsorted_;
  std::vector<int> tickets_;
};

/// expert(r) = local expert of arrived row r, once rows are sorted.
void local_expert_of_rows(const ExecutionSpace& space, const ExchangePlan& plan,
                          const Vector<int>& expert);

}  // namespace kokomoe
