// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/moe/dispatch_plan.hpp"

namespace kokomoe {

/// rows(r, :) = x(token of row r, :) for r < plan.rows(). x (T, d), rows (plan.rows(), d).
template <class T>
void gather_rows(const ExecutionSpace& space, const DispatchPlan& plan, const Matrix<const T>& x,
                 const Matrix<T>& rows);

/// y(t, :) = sum over t's slots, in slot order, of weight[slot] rows(row of slot, :); an empty
/// weight counts as ones. A token without rows gets zero. No atomics: the order is fixed. Unless
/// `gain` (d) is empty, scaled(t, c) = gain(c) y(t, c) in the same pass; without `scaled` (T, d), y
/// itself is multiplied.
template <class T>
void combine_rows(const ExecutionSpace& space, const DispatchPlan& plan,
                  const Matrix<const T>& rows, const Vector<const T>& weight, const Matrix<T>& y,
                  const Vector<const T>& gain = {}, const Matrix<T>& scaled = {});

/// by_row(r) = by_slot(slot of row r).
template <class T>
void slots_to_rows(const ExecutionSpace& space, const DispatchPlan& plan,
                   const Vector<const T>& by_slot, const Vector<T>& by_row);

/// by_slot(n) = by_row(row of slot n), 0 for unused slots.
template <class T>
void rows_to_slots(const ExecutionSpace& space, const DispatchPlan& plan,
                   const Vector<const T>& by_row, const Vector<T>& by_slot);

}  // namespace kokomoe
