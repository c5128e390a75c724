// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/core/types.hpp"

#include <cstddef>
#include <string>
#include <vector>

namespace kokomoe {

/// A stack of device memory that the caller owns: layers take from it, nobody frees singly.
/// When a block is full another is added (`growths` counts those); `reset` merges them, so a loop
/// whose steps have equal sizes allocates in its first steps and never again.
class Arena {
 public:
  struct Mark {
    std::size_t block = 0;
    std::size_t offset = 0;
    std::size_t used = 0;
  };

  /// `label` names the allocations for Kokkos Tools; `bytes`: first block, 0 = none yet.
  explicit Arena(std::string label, std::size_t bytes = 0);

  /// Uninitialised (rows, columns) matrix, 64-byte aligned; valid until reset or release.
  template <class T>
  Matrix<T> matrix(std::size_t rows, std::size_t columns) {
    return Matrix<T>(static_cast<T*>(take(rows * columns * sizeof(T))), rows, columns);
  }
  template <class T>
  Vector<T> vector(std::size_t size) {
    return Vector<T>(static_cast<T*>(take(size * sizeof(T))), size);
  }

  Mark mark() const { return {block_, offset_, used_}; }
  /// Gives back everything taken since `mark`.
  void release(const Mark& mark);
  /// Gives back everything; merges the blocks when there is more than one.
  void reset();

  std::size_t high_water() const { return high_water_; }  ///< bytes in use at the fullest moment
  std::size_t capacity() const;                           ///< bytes held
  int growths() const { return growths_; }                ///< allocations made so far

 private:
  void* take(std::size_t bytes);
  void add_block(std::size_t bytes);

  std::string label_;
  std::vector<Kokkos::View<unsigned char*, MemorySpace>> blocks_;
  std::size_t block_ = 0;
  std::size_t offset_ = 0;
  std::size_t used_ = 0;
  std::size_t high_water_ = 0;
  int growths_ = 0;
};

/// Releases an arena's top at the end of a scope.
class ArenaScope {
 public:
  explicit ArenaScope(Arena& arena) : arena_(arena), mark_(arena.mark()) {}
  ~ArenaScope() { arena_.release(mark_); }
  ArenaScope(const ArenaScope&) = delete;
  ArenaScope& operator=(const ArenaScope&) = delete;

 private:
  Arena& arena_;
  Arena::Mark mark_;
};

}  // namespace kokomoe
