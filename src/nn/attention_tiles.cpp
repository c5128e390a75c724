// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "nn/attention_tiles.hpp"

#if KOKOMOE_HOST_TILES

#include "core/simd_tile.hpp"
#include "kokomoe/core/math.hpp"
#include "nn/attention_head.hpp"

#include <cmath>

namespace kokomoe::detail {

namespace {

/// Queries whose scores are in the cache at a time.
constexpr int query_block = 32;
/// Keys whose transpose is in the cache at a time.
constexpr int key_block = 128;
/// Queries of a unit of forward: they share the transposed keys.
constexpr int query_chunk = 128;

/// Rows of a matrix, as the right factor of a product.
template <class T>
struct RightRows {
  const T* data;
  std::ptrdiff_t stride;
};

/// n rows of `width` channels where they lie, or a copy in `buffer` where a row's last vector would
/// be read beyond its end.
template <class T>
RightRows<T> right_rows(int n, int width, const T* from, std::ptrdiff_t stride, T* buffer) {
  const int padded = Simd<T>::padded(width);
  if (padded == width) return {from, stride};
  for (int i = 0; i < n; ++i)
    for (int c = 0; c < padded; ++c)
      buffer[i * padded + c] = c < width ? from[i * stride + c] : T(0);
  return {buffer, padded};
}

/// How many of a block's `keys` a query sees that sees `visible` from the block's first on.
inline int seen(int visible, int keys) {
  return visible < 0 ? 0 : visible < keys ? visible : keys;
}

/// The largest of n whole vectors of scores, the first `count` of which are looked at.
template <class T>
T largest(const T* s, int count) {
  using S = Simd<T>;
  constexpr int lanes = S::lanes;
  T most = -Kokkos::Experimental::finite_max_v<T>;
  int j = 0;
  if (count >= lanes) {
    typename S::Vector best = S::load(s);
    for (j = lanes; j + lanes <= count; j += lanes) {
      const typename S::Vector x = S::load(s + j);
      best = x > best ? x : best;
    }
    for (int i = 0; i < lanes; ++i) most = best[i] > most ? best[i] : most;
  }
  for (; j < count; ++j) most = s[j] > most ? s[j] : most;
  return most;
}

template <class T>
class Forward {
 public:
  Forward(const StepContext& ctx, const AttentionInput<T>& input, const Matrix<T>& out,
          const Matrix<T>& log_sum)
      : in_(input),
        drop_(ctx, input),
        out_(out),
        log_sum_(log_sum),
        scale_(static_cast<T>(1 / std::sqrt(static_cast<double>(input.width)))),
        chunks_((input.max_queries + query_chunk - 1) / query_chunk) {}

  int units() const { return in_.sequences * in_.heads * chunks_; }
  std::size_t memory() const {
    const auto padded = static_cast<std::size_t>(Simd<T>::padded(in_.width));
    return key_block * (static_cast<std::size_t>(in_.width) + padded + query_block) +
           2 * query_chunk;
  }

  void run(int unit, T* memory) const {
    const int head = unit / chunks_ % in_.heads;
    const AttentionHead<T> view(in_, unit / (chunks_ * in_.heads), head);
    const int begin = unit % chunks_ * query_chunk;
    const int end = std::min(begin + query_chunk, view.queries);
    if (begin >= end) return;
    const int width = in_.width;
    T* const keys = memory;                      // (width, key_block)
    T* const scores = keys + width * key_block;  // (query_block, key_block)
    T* const most = scores + query_block * key_block;
    T* const sum = most + query_chunk;
    T* const values = sum + query_chunk;  // (key_block, padded width)
    std::fill_n(sum, end - begin, T(0));
    const int last = view.visible(end - 1);
    for (int first = 0; first < last; first += key_block) {
      const int count = std::min(key_block, last - first);
      transpose_rows<T>(
          count, width, [&](int j) { return view.key(first + j); }, keys, key_block);
      const RightRows<T> v =
          right_rows<T>(count, width, view.value(first), in_.value.stride(0), values);
      for (int i = begin; i < end; i += query_block) {
        const int rows = std::min(query_block, end - i);
        const int wide = seen(view.visible(i + rows - 1) - first, count);
        if (wide == 0) continue;
        multiply_block<T>(rows, Simd<T>::padded(wide), width,
                          {view.query(i), static_cast<std::ptrdiff_t>(in_.query.stride(0)), 1},
                          keys, key_block, Into::set, scores, key_block);
        for (int r = 0; r < rows; ++r)
          exponentials(view, i + r, first, wide, scores + r * key_block, most[i - begin + r],
                       sum[i - begin + r]);
        multiply_block<T>(rows, width, wide, {scores, key_block, 1}, v.data, v.stride,
                          first == 0 ? Into::set : Into::add, row(view, i), out_.stride(0));
      }
    }
    for (int i = begin; i < end; ++i) {
      T* const o = row(view, i);
      if (last == 0) std::fill_n(o, width, T(0));  // no key at all
      const T inverse = sum[i - begin] == T(0) ? T(0) : T(1) / sum[i - begin];
#pragma omp simd
      for (int c = 0; c < width; ++c) o[c] *= inverse;
      log_sum_(view.query_begin + i, head) =
          last == 0 ? T(0) : most[i - begin] + std::log(sum[i - begin]);
    }
  }

 private:
  T* row(const AttentionHead<T>& view, int i) const {
    return &out_(view.query_begin + i, view.head * in_.width);
  }

  /// Scores of query i become exp(score - maximum so far), dropped or not; zeros for keys that it
  /// does not see. What there was of its output shrinks by as much as the maximum grew.
  void exponentials(const AttentionHead<T>& view, int i, int first, int wide, T* s, T& most,
                    T& sum) const {
    const int count = seen(view.visible(i) - first, wide);
    T maximum = scale_ * largest(s, count);
    if (first > 0) {
      if (count == 0) maximum = most;
      if (most > maximum) maximum = most;
      const T shrink = fast_exp(most - maximum);
      T* const o = row(view, i);
      if (shrink != T(1)) {
#pragma omp simd
        for (int c = 0; c < in_.width; ++c) o[c] *= shrink;
        sum *= shrink;
      }
    }
    const T scale = scale_;
    T added = 0;
#pragma omp simd reduction(+ : added)
    for (int j = 0; j < wide; ++j) {
      const T e = j < count ? fast_exp(scale * s[j] - maximum) : T(0);
      s[j] = e;
      added += e;
    }
    most = maximum;
    sum += added;
    drop_.apply(view.query_begin + i, view.head, first, (wide + 3) / 4 * 4, s);
  }

  AttentionInput<T> in_;
  AttentionDropout<T> drop_;
  Matrix<T> out_, log_sum_;
  T scale_;
  int chunks_;
};

template <class T>
class Backward {
 public:
  Backward(const StepContext& ctx, const AttentionInput<T>& input, const Matrix<const T>& out,
           const Matrix<const T>& log_sum, const Matrix<const T>& d_out, const Matrix<T>& d_query,
           const Matrix<T>& d_key, const Matrix<T>& d_value)
      : in_(input),
        drop_(ctx, input),
        out_(out),
        log_sum_(log_sum),
        d_out_(d_out),
        d_query_(d_query),
        d_key_(d_key),
        d_value_(d_value),
        scale_(static_cast<T>(1 / std::sqrt(static_cast<double>(input.width)))) {}

  int units() const { return in_.sequences * in_.heads; }
  std::size_t memory() const {
    const auto width = static_cast<std::size_t>(in_.width);
    const auto padded = static_cast<std::size_t>(Simd<T>::padded(in_.width));
    return key_block * (2 * width + padded + 3 * query_block) + 2 * query_block * padded;
  }

  void run(int unit, T* memory) const {
    const AttentionHead<T> view(in_, unit / in_.heads, unit % in_.heads);
    const int width = in_.width, padded = Simd<T>::padded(width);
    Block b{};
    b.keys_t = memory;
    b.values_t = b.keys_t + width * key_block;
    b.probability = b.values_t + width * key_block;
    b.d_score = b.probability + query_block * key_block;
    b.keep = b.d_score + query_block * key_block;
    T* const keys = b.keep + query_block * key_block;
    b.queries = keys + key_block * padded;
    b.d_out = b.queries + query_block * padded;
    for (b.first = 0; b.first < view.keys; b.first += key_block) {
      b.count = std::min(key_block, view.keys - b.first);
      transpose_rows<T>(
          b.count, width, [&](int j) { return view.key(b.first + j); }, b.keys_t, key_block);
      transpose_rows<T>(
          b.count, width, [&](int j) { return view.value(b.first + j); }, b.values_t, key_block);
      b.keys = right_rows<T>(b.count, width, view.key(b.first), in_.key.stride(0), keys);
      int written = 0;
      for (int i = 0; i < view.queries; i += query_block)
        block(view, b, i, std::min(query_block, view.queries - i), written);
      // Keys that no query saw.
      for (int j = written; j < b.count; ++j) {
        std::fill_n(d_key(view, b.first + j), width, T(0));
        std::fill_n(d_value(view, b.first + j), width, T(0));
      }
    }
    if (view.keys == 0)
      for (int i = 0; i < view.queries; ++i) std::fill_n(d_query(view, i), width, T(0));
  }

 private:
  /// A block of keys, and memory for what it has with a block of queries.
  struct Block {
    int first, count;
    T* keys_t;       ///< (width, key_block)
    T* values_t;     ///< (width, key_block)
    T* probability;  ///< (query_block, key_block)
    T* d_score;      ///< (query_block, key_block)
    T* keep;         ///< (query_block, key_block), with dropout
    T* queries;      ///< (query_block, padded width)
    T* d_out;        ///< (query_block, padded width)
    RightRows<T> keys;
  };

  /// Queries [i, i + rows). The first `written` keys of the block have gradients already.
  void block(const AttentionHead<T>& view, const Block& b, int i, int rows, int& written) const {
    const int wide = seen(view.visible(i + rows - 1) - b.first, b.count);
    if (wide == 0) return;
    const int width = in_.width, columns = Simd<T>::padded(wide);
    const int token = view.query_begin + i, column = view.head * width;
    const Strided<T> q{view.query(i), static_cast<std::ptrdiff_t>(in_.query.stride(0)), 1};
    const Strided<T> g{&d_out_(token, column), static_cast<std::ptrdiff_t>(d_out_.stride(0)), 1};
    multiply_block<T>(rows, columns, width, q, b.keys_t, key_block, Into::set, b.probability,
                      key_block);
    multiply_block<T>(rows, columns, width, g, b.values_t, key_block, Into::set, b.d_score,
                      key_block);
    for (int r = 0; r < rows; ++r) scores(view, b, i + r, r, wide);
    multiply_block<T>(rows, width, wide, {b.d_score, key_block, 1}, b.keys.data, b.keys.stride,
                      b.first == 0 ? Into::set : Into::add, d_query(view, i), d_query_.stride(0));
    const RightRows<T> queries = right_rows<T>(rows, width, q.data, q.row, b.queries);
    const RightRows<T> d_out = right_rows<T>(rows, width, g.data, g.row, b.d_out);
    const auto to_keys = [&](int begin, int end, Into into) {
      if (begin >= end) return;
      multiply_block<T>(end - begin, width, rows, {b.d_score + begin, 1, key_block}, queries.data,
                        queries.stride, into, d_key(view, b.first + begin), d_key_.stride(0));
      multiply_block<T>(end - begin, width, rows, {b.probability + begin, 1, key_block}, d_out.data,
                        d_out.stride, into, d_value(view, b.first + begin), d_value_.stride(0));
    };
    to_keys(0, std::min(written, wide), Into::add);
    to_keys(written, wide, Into::set);
    written = std::max(written, wide);
  }

  /// q k^T and d_out v^T of a row become its probabilities and the gradient by q k^T.
  void scores(const AttentionHead<T>& view, const Block& b, int i, int r, int wide) const {
    const int token = view.query_begin + i, column = view.head * in_.width;
    const int count = seen(view.visible(i) - b.first, wide);
    const T* const g = &d_out_(token, column);
    const T* const o = &out_(token, column);
    T mean = 0;
#pragma omp simd reduction(+ : mean)
    for (int c = 0; c < in_.width; ++c) mean += g[c] * o[c];
    T* const p = b.probability + r * key_block;
    T* const ds = b.d_score + r * key_block;
    const T lse = log_sum_(token, view.head), scale = scale_;
    if (drop_.rate == T(0)) {
#pragma omp simd
      for (int j = 0; j < wide; ++j) {
        const T e = j < count ? fast_exp(scale * p[j] - lse) : T(0);
        ds[j] = scale * e * (ds[j] - mean);
        p[j] = e;
      }
      return;
    }
    T* const keep = b.keep + r * key_block;
    const int drawn = (wide + 3) / 4 * 4;
    std::fill_n(keep, drawn, T(1));
    drop_.apply(token, view.head, b.first, drawn, keep);
#pragma omp simd
    for (int j = 0; j < wide; ++j) {
      const T e = j < count ? fast_exp(scale * p[j] - lse) : T(0);
      ds[j] = scale * e * (keep[j] * ds[j] - mean);
      p[j] = e * keep[j];
    }
  }

  T* d_query(const AttentionHead<T>& view, int i) const {
    return &d_query_(view.query_begin + i, in_.query_column + view.head * in_.width);
  }
  T* d_key(const AttentionHead<T>& view, int j) const {
    return &d_key_(view.key_begin + j, in_.key_column + view.head * in_.width);
  }
  T* d_value(const AttentionHead<T>& view, int j) const {
    return &d_value_(view.key_begin + j, in_.value_column + view.head * in_.width);
  }

  AttentionInput<T> in_;
  AttentionDropout<T> drop_;
  Matrix<const T> out_, log_sum_, d_out_;
  Matrix<T> d_query_, d_key_, d_value_;
  T scale_;
};

}  // namespace

template <class T>
void attention_forward_tiles(const StepContext& ctx, const AttentionInput<T>& input,
                             const Matrix<T>& out, const Matrix<T>& log_sum) {
  const Forward<T> forward(ctx, input, out, log_sum);
  for_each_unit<T>(KOKOMOE_LABEL("nn::attention"), ctx.space, *ctx.scratch, forward.units(),
                   forward.memory(),
                   [=](const int unit, T* const memory) { forward.run(unit, memory); });
}

template <class T>
void attention_backward_tiles(const StepContext& ctx, const AttentionInput<T>& input,
                              const Matrix<const T>& out, const Matrix<const T>& log_sum,
                              const Matrix<const T>& d_out, const Matrix<T>& d_query,
                              const Matrix<T>& d_key, const Matrix<T>& d_value) {
  const Backward<T> backward(ctx, input, out, log_sum, d_out, d_query, d_key, d_value);
  for_each_unit<T>(KOKOMOE_LABEL("nn::attention_backward"), ctx.space, *ctx.scratch,
                   backward.units(), backward.memory(),
                   [=](const int unit, T* const memory) { backward.run(unit, memory); });
}

#define KOKOMOE_INSTANTIATE(T)                                                              \
  template void attention_forward_tiles<T>(const StepContext&, const AttentionInput<T>&,    \
                                           const Matrix<T>&, const Matrix<T>&);             \
  template void attention_backward_tiles<T>(const StepContext&, const AttentionInput<T>&,   \
                                            const Matrix<const T>&, const Matrix<const T>&, \
                                            const Matrix<const T>&, const Matrix<T>&,       \
                                            const Matrix<T>&, const Matrix<T>&);
KOKOMOE_INSTANTIATE(float)
KOKOMOE_INSTANTIATE(double)
#undef KOKOMOE_INSTANTIATE

}  // namespace kokomoe::detail

#endif
