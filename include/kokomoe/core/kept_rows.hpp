// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/core/arena.hpp"
#include "kokomoe/core/bfloat16.hpp"
#include "kokomoe/core/rows_of.hpp"

namespace kokomoe {

/// A matrix that forward computes and backward reads again: kept as it is, or rounded to bfloat16,
/// which takes half of the memory (a quarter of double's, rounded to float on the way). T: float,
/// double.
template <class T>
class KeptRows {
 public:
  KeptRows() = default;
  /// (rows, columns), uninitialised; takes its memory from `arena`.
  KeptRows(Arena& arena, std::size_t rows, std::size_t columns, bool rounded) : rounded_(rounded) {
    if (rounded)
      narrow_ = arena.matrix<Bfloat16>(rows, columns);
    else
      wide_ = arena.matrix<T>(rows, columns);
  }

  std::size_t rows() const { return rounded_ ? narrow_.extent(0) : wide_.extent(0); }
  std::size_t columns() const { return rounded_ ? narrow_.extent(1) : wide_.extent(1); }
  bool rounded() const { return rounded_; }
  std::size_t bytes() const {
    return rows() * columns() * (rounded_ ? sizeof(Bfloat16) : sizeof(T));
  }

  /// Where forward writes: the memory itself, or `scratch`, from where `keep` takes it.
  Matrix<T> begin(Arena& scratch) const {
    return rounded_ ? scratch.matrix<T>(rows(), columns()) : wide_;
  }
  /// Keeps what `begin` gave, now written. `round_written`: forward goes on with what was kept,
  /// too.
  void keep(const ExecutionSpace& space, const Matrix<T>& written,
            bool round_written = false) const;
  /// For backward: the memory itself, or a copy in `scratch`.
  Matrix<const T> read(const ExecutionSpace& space, Arena& scratch) const;

  /// Rows [begin, end).
  KeptRows part(std::size_t begin, std::size_t end) const {
    KeptRows some = *this;
    if (rounded_)
      some.narrow_ = rows_of(narrow_, begin, end);
    else
      some.wide_ = rows_of(wide_, begin, end);
    return some;
  }

  /// The memory, of one type or the other.
  const Matrix<T>& wide() const { return wide_; }
  const Matrix<Bfloat16>& narrow() const { return narrow_; }

 private:
  Matrix<T> wide_;
  Matrix<Bfloat16> narrow_;
  bool rounded_ = false;
};

}  // namespace kokomoe
