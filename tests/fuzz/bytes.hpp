// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace kokomoe::fuzz {

/// Decisions taken from an input's bytes; zeros after its end.
class Bytes {
 public:
  Bytes(const std::uint8_t* data, std::size_t size) : data_(data), size_(size) {}

  bool empty() const { return at_ >= size_; }
  std::uint8_t next() { return empty() ? 0 : data_[at_++]; }
  /// Less than `count`, which is 1 to 256.
  std::size_t below(std::size_t count) { return next() % count; }
  bool flag() { return (next() & 1) != 0; }

  std::string text(std::size_t length) {
    std::string result;
    for (std::size_t i = 0; i < length && !empty(); ++i) result += static_cast<char>(next());
    return result;
  }

 private:
  const std::uint8_t* data_;
  std::size_t size_;
  std::size_t at_ = 0;
};

}  // namespace kokomoe::fuzz
