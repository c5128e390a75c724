// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/core/bfloat16.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>
#ifdef __AVX__
#include <immintrin.h>
#endif

/// Matrix products of one host thread that read their operands where they lie: no packing of
/// weights that are used once. Vectors run along the columns of B and C; A is read element by
/// element, in any two strides. Needs the vector types of GCC and clang.
namespace kokomoe::detail {

template <class T>
struct Simd {
#if defined(__AVX512F__)
  static constexpr int bytes = 64, tile_rows = 8, tile_vectors = 3;  // 24 of 32 registers sum
#elif defined(__AVX__)
  static constexpr int bytes = 32, tile_rows = 4, tile_vectors = 3;  // 12 of 16
#elif defined(__aarch64__)
  static constexpr int bytes = 16, tile_rows = 8, tile_vectors = 3;  // 24 of 32
#else
  static constexpr int bytes = 16, tile_rows = 4, tile_vectors = 3;  // 12 of 16
#endif
  static constexpr int lanes = bytes / static_cast<int>(sizeof(T));
  static constexpr int panel = tile_vectors * lanes;  ///< columns of a full tile
  typedef T Vector __attribute__((vector_size(bytes)));
  typedef T Unaligned __attribute__((vector_size(bytes), aligned(alignof(T)), may_alias));

  static Vector load(const T* from) {
    return *reinterpret_cast<const Unaligned*>(from);
  }
  static void store(T* to, Vector x) {
    *reinterpret_cast<Unaligned*>(to) = x;
  }
  /// Past the caches, where the CPU has such stores; `to` must be aligned to a vector.
  static void stream(T* to, Vector x) {
#if defined(__AVX512F__)
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to), reinterpret_cast<__m512i>(x));
#elif defined(__AVX__)
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to), reinterpret_cast<__m256i>(x));
#else
    store(to, x);
#endif
  }
  /// Streams are seen by other threads after this.
  static void end_streams() {
#ifdef __AVX__
    _mm_sfence();
#endif
  }
  /// n rounded up to whole vectors.
  static constexpr int padded(int n) {
    return (n + lanes - 1) / lanes * lanes;
  }
};

/// A matrix read element by element: (r, k) lies at data[r row + k inner].
template <class T>
struct Strided {
  const T* data;
  std::ptrdiff_t row, inner;

  Strided rows_from(int r) const { return {data + r * row, row, inner}; }
};

/// Memory that will be needed soon, asked for line by line while a product runs: hardware does not
/// look far enough ahead when every weight is used once.
class Ahead {
 public:
  Ahead() = default;
  /// `rows` rows of `columns` elements, `stride` from each to the next.
  template <class T>
  Ahead(const T* begin, int rows, int columns, std::ptrdiff_t stride)
      : at_(reinterpret_cast<const char*>(begin)),
        end_(reinterpret_cast<const char*>(rows > 0 ? begin + columns : begin)),
        rows_left_(rows - 1),
        jump_((stride - columns) * static_cast<std::ptrdiff_t>(sizeof(T))),
        row_(columns * static_cast<std::ptrdiff_t>(sizeof(T))) {}
  void fetch(int lines) {
    for (int i = 0; i < lines; ++i, at_ += 64) {
      if (at_ >= end_) {
        if (rows_left_ <= 0) return;
        --rows_left_;
        at_ = end_ + jump_;
        end_ = at_ + row_;
      }
      __builtin_prefetch(at_, 0, 2);
    }
  }

 private:
  const char* at_ = nullptr;
  const char* end_ = nullptr;
  int rows_left_ = 0;
  std::ptrdiff_t jump_ = 0, row_ = 0;  ///< bytes
};

/// What becomes of C.
enum class Into {
  set,
  add,
  stream  ///< set, and not needed soon: written past the caches, and not read before that
};

/// Steps of a product between two calls of Ahead::fetch.
inline constexpr int fetch_steps = 16;

/// sum (R, V vectors) = a b over k steps, in registers. `lines` of `ahead` are fetched every
/// fetch_steps.
template <class T, int R, int V>
inline __attribute__((always_inline)) void sum_tile(int k, const Strided<T>& a, const T* b,
                                                    std::ptrdiff_t b_row,
                                                    typename Simd<T>::Vector (&sum)[R][V],
                                                    Ahead& ahead, int lines) {
  using S = Simd<T>;
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sum[r][v] = typename S::Vector{};
  const T* x = a.data;
  for (int begin = 0; begin < k; begin += fetch_steps) {
    if (lines > 0) ahead.fetch(lines);
    const int end = std::min(begin + fetch_steps, k);
    for (int p = begin; p < end; ++p, x += a.inner, b += b_row) {
      typename S::Vector y[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) y[v] = S::load(b + v * S::lanes);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const T w = x[r * a.row];
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) sum[r][v] += w * y[v];
      }
    }
  }
}

/// c (R, V vectors) = or += a b over k steps; for Into::stream rows of c are aligned.
template <class T, int R, int V>
inline __attribute__((always_inline)) void multiply_tile(int k, const Strided<T>& a, const T* b,
                                                         std::ptrdiff_t b_row, Into into, T* c,
                                                         std::ptrdiff_t c_row, Ahead& ahead,
                                                         int lines) {
  using S = Simd<T>;
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v)
      if (into != Into::stream) __builtin_prefetch(c + r * c_row + v * S::lanes, 1, 3);
  typename S::Vector sum[R][V];
  sum_tile<T, R, V>(k, a, b, b_row, sum, ahead, lines);
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      T* const to = c + r * c_row + v * S::lanes;
      if (into == Into::stream)
        S::stream(to, sum[r][v]);
      else
        S::store(to, into == Into::add ? S::load(to) + sum[r][v] : sum[r][v]);
    }
}

/// One strip of rows, `columns` of them whole vectors, in tiles of at most tile_vectors.
template <class T, int R>
void multiply_strip(int columns, int k, const Strided<T>& a, const T* b, std::ptrdiff_t b_row,
                    Into into, T* c, std::ptrdiff_t c_row, Ahead& ahead, int lines) {
  constexpr int lanes = Simd<T>::lanes;
  int vectors = columns / lanes;
  while (vectors > 0) {
    // 4 = 2 + 2 rather than 3 + 1: narrow tiles wait for their own sums.
    const int take = vectors == 4 ? 2 : std::min(vectors, 3);
    if (take == 3)
      multiply_tile<T, R, 3>(k, a, b, b_row, into, c, c_row, ahead, lines);
    else if (take == 2)
      multiply_tile<T, R, 2>(k, a, b, b_row, into, c, c_row, ahead, lines);
    else
      multiply_tile<T, R, 1>(k, a, b, b_row, into, c, c_row, ahead, lines);
    vectors -= take;
    b += take * lanes;
    c += take * lanes;
  }
}

/// C (rows, columns) = or += A (rows, k) B (k, columns). `columns` may end within a vector: B must
/// then be readable to the vector's end (any values), C is not written there. Every element is
/// summed over k in ascending order, whatever the tiles: equal rows of A give equal rows of C.
/// `lines` of `ahead` are fetched every fetch_steps of every tile.
template <class T>
void multiply_block(int rows, int columns, int k, Strided<T> a, const T* b, std::ptrdiff_t b_row,
                    Into into, T* c, std::ptrdiff_t c_row, Ahead& ahead, int lines) {
  constexpr int R = Simd<T>::tile_rows, lanes = Simd<T>::lanes;
  const int whole = columns / lanes * lanes, tail = columns - whole;
  constexpr std::size_t vector = Simd<T>::bytes;
  const bool aligned = (reinterpret_cast<std::uintptr_t>(c) % vector == 0) &&
                       (static_cast<std::size_t>(c_row) * sizeof(T) % vector == 0);
  if (into == Into::stream && !aligned) into = Into::set;
  const auto strip = [&](auto height, int r) {
    constexpr int n = decltype(height)::value;
    const Strided<T> x = a.rows_from(r);
    T* const y = c + r * c_row;
    multiply_strip<T, n>(whole, k, x, b, b_row, into, y, c_row, ahead, lines);
    if (tail == 0) return;
    T last[n * lanes];
    multiply_tile<T, n, 1>(k, x, b + whole, b_row, Into::set, last, lanes, ahead, lines);
    for (int i = 0; i < n; ++i)
      for (int j = 0; j < tail; ++j) {
        T& to = y[i * c_row + whole + j];
        to = into == Into::add ? to + last[i * lanes + j] : last[i * lanes + j];
      }
  };
  int r = 0;
  for (; r + R <= rows; r += R) strip(std::integral_constant<int, R>(), r);
  for (; r < rows; ++r) strip(std::integral_constant<int, 1>(), r);
}

template <class T>
void multiply_block(int rows, int columns, int k, Strided<T> a, const T* b, std::ptrdiff_t b_row,
                    Into into, T* c, std::ptrdiff_t c_row) {
  Ahead nothing;
  multiply_block<T>(rows, columns, k, a, b, b_row, into, c, c_row, nothing, 0);
}

/// Copies bytes past the caches; for others to see after Simd::end_streams.
inline void stream_copy(std::size_t bytes, const void* from, void* to) {
  using S = Simd<unsigned char>;
  const auto* const source = static_cast<const unsigned char*>(from);
  auto* const target = static_cast<unsigned char*>(to);
  const std::size_t past = reinterpret_cast<std::uintptr_t>(to) % S::bytes;
  std::size_t i = std::min(bytes, past == 0 ? 0 : S::bytes - past);
  std::memcpy(target, source, i);
  for (; i + S::bytes <= bytes; i += S::bytes) S::stream(target + i, S::load(source + i));
  std::memcpy(target + i, source + i, bytes - i);
}

template <class T>
T element(T x) {
  return x;
}
template <class T>
T element(Bfloat16 x) {
  return static_cast<T>(static_cast<float>(x));
}

/// n elements, as many as fit into a vector, of one type into another.
template <int n, class T>
inline __attribute__((always_inline)) void copy_vector(const T* from, T* to) {
  std::memcpy(to, from, n * sizeof(T));
}
template <int n, class T>
inline __attribute__((always_inline)) void copy_vector(const Bfloat16* from, T* to) {
#pragma omp simd
  for (int i = 0; i < n; ++i) to[i] = element<T>(from[i]);
}

/// Elements of one type into another.
template <class From, class T>
inline __attribute__((always_inline)) void copy_elements(int n, const From* from, T* to) {
  constexpr int lanes = Simd<T>::lanes;
  int i = 0;
  for (; i + lanes <= n; i += lanes) copy_vector<lanes>(from + i, to + i);
  for (; i < n; ++i) to[i] = element<T>(from[i]);
}

/// Columns of a row-major (k, columns) matrix with rows of from_row elements as strips of
/// tile_rows, each (k, tile_rows), one behind the other: they are the rows of A = from^T, and A's
/// columns lie side by side in a strip. The last strip may be partly filled. `to`: strips k
/// tile_rows elements.
template <class From, class T>
void pack_strips(int k, int columns, const From* from, std::ptrdiff_t from_row, T* to) {
  constexpr int R = Simd<T>::tile_rows;
  for (int c = 0; c < columns; c += R, to += static_cast<std::ptrdiff_t>(k) * R) {
    if (c + R <= columns)
      for (int p = 0; p < k; ++p) copy_vector<R>(from + p * from_row + c, to + p * R);
    else
      for (int p = 0; p < k; ++p) copy_elements(columns - c, from + p * from_row + c, to + p * R);
  }
}

/// Strip number s of what pack_strips made, as rows of A.
template <class T>
Strided<T> packed_strip(const T* packed, int k, int s) {
  constexpr int R = Simd<T>::tile_rows;
  return {packed + static_cast<std::ptrdiff_t>(s) * k * R, 1, R};
}

namespace simd_tile {

template <class T, int... i>
inline typename Simd<T>::Vector interleave(typename Simd<T>::Vector a, typename Simd<T>::Vector b,
                                           bool high, std::integer_sequence<int, i...>) {
  constexpr int lanes = Simd<T>::lanes, half = lanes / 2;
  return high ? __builtin_shufflevector(a, b, (i % 2 ? lanes + half + i / 2 : half + i / 2)...)
              : __builtin_shufflevector(a, b, (i % 2 ? lanes + i / 2 : i / 2)...);
}

/// Transposes a square of lanes x lanes in registers: log2(lanes) rounds of a perfect shuffle.
template <class T>
inline void transpose_square(typename Simd<T>::Vector (&x)[Simd<T>::lanes]) {
  constexpr int lanes = Simd<T>::lanes;
  constexpr auto all = std::make_integer_sequence<int, lanes>();
  for (int width = 1; width < lanes; width *= 2) {
    typename Simd<T>::Vector y[lanes];
#pragma GCC unroll 16
    for (int i = 0; i < lanes / 2; ++i) {
      y[2 * i] = interleave<T>(x[i], x[i + lanes / 2], false, all);
      y[2 * i + 1] = interleave<T>(x[i], x[i + lanes / 2], true, all);
    }
#pragma GCC unroll 16
    for (int i = 0; i < lanes; ++i) x[i] = y[i];
  }
}

}  // namespace simd_tile

/// to(j, i) = from(i, j) for i < rows, j < columns; zeros in to(j, i) for rows <= i < padded(rows).
/// `from_row(i)` is a pointer to row i; `to` has rows of to_row elements.
template <class T, class Rows>
void transpose_rows(int rows, int columns, const Rows& from_row, T* to, std::ptrdiff_t to_row) {
  using S = Simd<T>;
  constexpr int lanes = S::lanes;
  for (int i = 0; i < rows; i += lanes) {
    const int height = std::min(lanes, rows - i);
    const T* from[lanes];
    for (int r = 0; r < lanes; ++r) from[r] = from_row(i + std::min(r, height - 1));
    int j = 0;
    for (; j + lanes <= columns; j += lanes) {
      typename S::Vector x[lanes];
#pragma GCC unroll 16
      for (int r = 0; r < lanes; ++r)
        x[r] = r < height ? S::load(from[r] + j) : typename S::Vector{};
      simd_tile::transpose_square<T>(x);
#pragma GCC unroll 16
      for (int r = 0; r < lanes; ++r) S::store(to + (j + r) * to_row + i, x[r]);
    }
    for (; j < columns; ++j)
      for (int r = 0; r < lanes; ++r) to[j * to_row + i + r] = r < height ? from[r][j] : T(0);
  }
}

}  // namespace kokomoe::detail
