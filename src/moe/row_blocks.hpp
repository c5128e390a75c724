// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "moe/expert_blocks.hpp"

#if KOKOMOE_EXPERT_BLOCKS

#include "core/simd_tile.hpp"

#include <algorithm>
#include <cstddef>

/// What forward and backward over blocks of rows share.
namespace kokomoe::detail {

/// Rows of a block at most: both sides of its hidden layer then lie in a core's second cache.
inline constexpr int most_rows = 192;

struct Block {
  int expert;
  int row;  ///< its first
  int rows;
  int padded_row;  ///< its first, if the blocks before were rounded up to whole vectors
};

/// The blocks of all experts, in their order.
struct Blocks {
  Vector<Block> all;
  Vector<int> first_of_expert;  ///< (E + 1)
  int padded_rows = 0;

  int size() const { return static_cast<int>(all.extent(0)); }
};

constexpr int blocks_of(int rows) {
  return (rows + most_rows - 1) / most_rows;
}

/// An expert's rows in as few blocks as possible, of nearly equal size: a block of few rows costs
/// as much memory traffic as a full one.
template <class T>
Blocks cut(Arena& scratch, std::span<const int> offsets) {
  const std::size_t experts = offsets.size() - 1;
  int count = 0;
  for (std::size_t e = 0; e < experts; ++e) count += blocks_of(offsets[e + 1] - offsets[e]);
  Blocks blocks{scratch.vector<Block>(static_cast<std::size_t>(count)),
                scratch.vector<int>(experts + 1)};
  int next = 0;
  for (std::size_t e = 0; e < experts; ++e) {
    blocks.first_of_expert(e) = next;
    const int end = offsets[e + 1] - offsets[0];
    int row = offsets[e] - offsets[0];
    if (row == end) continue;
    const int parts = blocks_of(end - row);
    const int size = Simd<T>::padded((end - row + parts - 1) / parts);
    for (; row < end; row += size) {
      const int rows = std::min(size, end - row);
      blocks.all(next++) = {static_cast<int>(e), row, rows, blocks.padded_rows};
      blocks.padded_rows += Simd<T>::padded(rows);
    }
  }
  blocks.first_of_expert(experts) = next;
  return blocks;
}

/// Sizes of the experts.
struct Shape {
  int d, h;
  int width;  ///< of the first matrix: h, or 2 h with a gate
  bool gated() const { return width != h; }
};

template <class T>
Shape shape_of(Activation activation, const PickedRows<T>& rows, const Matrix<const T>& w2) {
  const int h = static_cast<int>(w2.extent(1));
  return {static_cast<int>(rows.columns()), h, first_width(activation, h)};
}

/// Weights as they lie, or in bfloat16.
template <class T>
struct Weights {
  const T* whole;
  const Bfloat16* rounded;  ///< instead, unless null

  /// f(pointer) of the one or the other.
  template <class F>
  decltype(auto) visit(const F& f) const {
    return rounded == nullptr ? f(whole) : f(rounded);
  }
  Weights operator+(std::size_t n) const {
    return rounded == nullptr ? Weights{whole + n, nullptr} : Weights{nullptr, rounded + n};
  }
  void copy(int n, T* to) const {
    visit([&](const auto* from) { copy_elements(n, from, to); });
  }
  std::size_t element() const {
    return visit([](const auto* from) { return sizeof(*from); });
  }
  /// Rows of `columns`, `stride` from each to the next.
  Ahead ahead(int rows, int columns, std::ptrdiff_t stride) const {
    return visit([&](const auto* from) { return Ahead(from, rows, columns, stride); });
  }
};

/// Lines to fetch every fetch_steps of a tile, so that the weights of the next strip of rows are
/// there when this one is done. `columns`: of the product, in whole vectors; `element`: bytes of a
/// weight.
template <class T>
int lines_ahead(int columns, std::size_t element) {
  using S = Simd<T>;
  const int vectors = columns / S::lanes;
  const int tiles = vectors == 4 ? 2 : (vectors + S::tile_vectors - 1) / S::tile_vectors;
  const int lines = S::tile_rows * fetch_steps * static_cast<int>(element) / 64;
  return (lines + tiles - 1) / tiles;
}

// Each of these is a function of its own: inlined into much else, GCC 12 makes no vectors of relu.
#define KOKOMOE_CHANNEL static __attribute__((noinline)) void

/// What the activation does to one hidden channel of a block, tokens side by side.
template <class Act, class T>
struct Plain {
  /// z = x + bias, and x becomes the activation.
  KOKOMOE_CHANNEL forward(int n, const T (&bias)[2], T* x, const T*, T* z, T*) {
    const T b = bias[0];
#pragma omp simd
    for (int t = 0; t < n; ++t) {
      z[t] = x[t] + b;
      x[t] = Act::value(z[t]);
    }
  }
  /// d: gradient by the activation, in its place by z; sums: of d over tokens; a: weighted.
  KOKOMOE_CHANNEL backward(int n, const T* z, const T*, const T* weight, T* d, T*, T* a, T* dot,
                           T (&sums)[2]) {
    T sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int t = 0; t < n; ++t) {
      const T value = Act::value(z[t]);
      dot[t] += d[t] * value;
      a[t] = weight[t] * value;
      const T dz = weight[t] * d[t] * Act::derivative(z[t]);
      d[t] = dz;
      sum += dz;
    }
    sums[0] = sum;
  }
};

template <class T>
struct Gated {
  KOKOMOE_CHANNEL forward(int n, const T (&bias)[2], T* x, const T* x_up, T* z, T* up) {
    const T b = bias[0], b_up = bias[1];
#pragma omp simd
    for (int t = 0; t < n; ++t) {
      z[t] = x[t] + b;
      up[t] = x_up[t] + b_up;
      x[t] = z[t] * fast_sigmoid(z[t]) * up[t];
    }
  }
  KOKOMOE_CHANNEL backward(int n, const T* z, const T* up, const T* weight, T* d, T* d_up, T* a,
                           T* dot, T (&sums)[2]) {
    T sum = 0, sum_up = 0;
#pragma omp simd reduction(+ : sum, sum_up)
    for (int t = 0; t < n; ++t) {
      const T sigmoid = fast_sigmoid(z[t]), silu = z[t] * sigmoid, value = silu * up[t];
      dot[t] += d[t] * value;
      a[t] = weight[t] * value;
      const T dy = weight[t] * d[t];
      const T dz = dy * up[t] * (sigmoid + silu * (T(1) - sigmoid)), du = dy * silu;
      d[t] = dz;
      d_up[t] = du;
      sum += dz;
      sum_up += du;
    }
    sums[0] = sum;
    sums[1] = sum_up;
  }
};

#undef KOKOMOE_CHANNEL

/// The blocks of some experts, and where what belongs to them lies.
template <class T>
class RowBlocks {
 public:
  RowBlocks(const Shape& shape, const ExpertWeights<T>& weights, const Blocks& blocks)
      : s_(shape), p_(weights.whole), w1_(weights.w1), w2_(weights.w2), blocks_(blocks) {}

 protected:
  Weights<T> w1(int expert) const {
    return Weights<T>{p_.w1.data(), w1_.data()} + offset(expert, s_.width, s_.d);
  }
  Weights<T> w2(int expert) const {
    return Weights<T>{p_.w2.data(), w2_.data()} + offset(expert, s_.d, s_.h);
  }
  static std::size_t offset(int expert, int rows, int columns) {
    return static_cast<std::size_t>(expert) * static_cast<std::size_t>(rows) *
           static_cast<std::size_t>(columns);
  }
  /// Where a block's part of scratch begins that has `columns` for each padded row.
  static std::size_t at(const Block& block, int columns) {
    return static_cast<std::size_t>(block.padded_row) * static_cast<std::size_t>(columns);
  }

  /// to (m, d) = the transpose of from (d, padded).
  void write_rows(int m, int padded, const T* from, T* to) const {
    const int d = s_.d;
    constexpr int lanes = Simd<T>::lanes;
    int c = 0;
    for (; c + lanes <= d; c += lanes)
      for (int t = 0; t < m; t += lanes) {
        typename Simd<T>::Vector x[lanes];
#pragma GCC unroll 16
        for (int i = 0; i < lanes; ++i) x[i] = Simd<T>::load(from + (c + i) * padded + t);
        simd_tile::transpose_square<T>(x);
        const int height = std::min(lanes, m - t);
        for (int i = 0; i < height; ++i)
          Simd<T>::store(to + static_cast<std::size_t>(t + i) * d + c, x[i]);
      }
    for (; c < d; ++c)
      for (int t = 0; t < m; ++t) to[static_cast<std::size_t>(t) * d + c] = from[c * padded + t];
  }
  Shape s_;
  ExpertTensors<const T> p_;
  Matrix<const Bfloat16> w1_, w2_;
  Blocks blocks_;
};

/// f(Act()) for what the activation does to a hidden channel.
template <class T, class F>
void with_activation(Activation activation, const F& f) {
  switch (activation) {
    case Activation::relu:
      return f(Plain<Relu, T>());
    case Activation::gelu:
      return f(Plain<Gelu, T>());
    case Activation::swiglu:
      return f(Gated<T>());
  }
}

}  // namespace kokomoe::detail

#endif
