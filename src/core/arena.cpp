// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/arena.hpp"

#include "kokomoe/core/huge_pages.hpp"

#include <algorithm>
#include <utility>

namespace kokomoe {

namespace {
constexpr std::size_t alignment = 64;
constexpr std::size_t smallest_block = std::size_t(1) << 20;
}  // namespace

Arena::Arena(std::string label, std::size_t bytes) : label_(std::move(label)) {
  if (bytes > 0) add_block(bytes);
}

void* Arena::take(std::size_t bytes) {
  const std::size_t rounded = (bytes + alignment - 1) / alignment * alignment;
  while (block_ < blocks_.size() && offset_ + rounded > blocks_[block_].extent(0)) {
    ++block_;
    offset_ = 0;
  }
  if (block_ == blocks_.size()) {
    const std::size_t size = std::max({rounded, capacity(), smallest_block});
    add_block(size);
  }
  void* result = blocks_[block_].data() + offset_;
  offset_ += rounded;
  used_ += rounded;
  high_water_ = std::max(high_water_, used_);
  return result;
}

void Arena::add_block(std::size_t bytes) {
  blocks_.emplace_back(Kokkos::view_alloc(label_, Kokkos::WithoutInitializing), bytes);
  prefer_huge_pages(blocks_.back().data(), bytes);
  ++growths_;
}

void Arena::release(const Mark& mark) {
  block_ = mark.block;
  offset_ = mark.offset;
  used_ = mark.used;
}

void Arena::reset() {
  release({});
  if (blocks_.size() > 1) {
    // What was skipped at the ends of full blocks is not needed in one piece: high_water_ is.
    blocks_.clear();
    add_block(high_water_);
  }
}

std::size_t Arena::capacity() const {
  std::size_t sum = 0;
  for (const auto& block : blocks_) sum += block.extent(0);
  return sum;
}

}  // namespace kokomoe
