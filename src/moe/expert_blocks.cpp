// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "moe/expert_blocks.hpp"

#if KOKOMOE_EXPERT_BLOCKS

#include "core/simd_tile.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace kokomoe::detail {

namespace {

/// Rows of a block at most: both sides of its hidden layer then lie in a core's second cache.
constexpr int most_rows = 192;
/// Hidden channels that forward takes from the first matrix to the second at a time.
constexpr int most_hidden = 1024;
constexpr int chunk_width = backward_chunk_width;
/// Rows of W1 that backward's last pass packs at a time.
constexpr int packed_rows = 128;
/// Pre-activations of this many bytes leave the caches before backward reads them, so they are
/// written past them.
constexpr std::size_t streamed_bytes = std::size_t(1) << 20;
/// Channels whose pre-activations are written at a time.
constexpr int written_channels = 16;

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

/// Lines to fetch every fetch_steps of a tile, so that the weights of the next strip of rows are
/// there when this one is done. `columns`: of the product, in whole vectors.
template <class T>
int lines_ahead(int columns) {
  using S = Simd<T>;
  const int vectors = columns / S::lanes;
  const int tiles = vectors == 4 ? 2 : (vectors + S::tile_vectors - 1) / S::tile_vectors;
  const int lines = S::tile_rows * fetch_steps * static_cast<int>(sizeof(T)) / 64;
  return (lines + tiles - 1) / tiles;
}

/// C (rows, columns) = or += W B for a row-major W (rows, k) that is read once, from memory.
template <class T>
void multiply_weights(int rows, int columns, int k, const T* w, std::ptrdiff_t w_row, const T* b,
                      Into into, T* c) {
  const T* const next = w + Simd<T>::tile_rows * w_row;
  Ahead ahead(next, std::max(next, w + rows * w_row));
  multiply_block<T>(rows, columns, k, {w, w_row, 1}, b, columns, into, c, columns, ahead,
                    w_row == k ? lines_ahead<T>(columns) : 0);
}

/// What the activation does to one hidden channel of a block, tokens side by side.
template <class Act, class T>
struct Plain {
  /// z = x + bias, and x becomes the activation.
  static void forward(int n, const T (&bias)[2], T* x, const T*, T* z, T*) {
    const T b = bias[0];
#pragma omp simd
    for (int t = 0; t < n; ++t) {
      z[t] = x[t] + b;
      x[t] = Act::value(z[t]);
    }
  }
  /// d: gradient by the activation, in its place by z; sums: of d over tokens; a: weighted.
  static void backward(int n, const T* z, const T*, const T* weight, T* d, T*, T* a, T* dot,
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
  static void forward(int n, const T (&bias)[2], T* x, const T* x_up, T* z, T* up) {
    const T b = bias[0], b_up = bias[1];
#pragma omp simd
    for (int t = 0; t < n; ++t) {
      z[t] = x[t] + b;
      up[t] = x_up[t] + b_up;
      x[t] = z[t] * fast_sigmoid(z[t]) * up[t];
    }
  }
  static void backward(int n, const T* z, const T* up, const T* weight, T* d, T* d_up, T* a, T* dot,
                       T (&sums)[2]) {
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

/// One forward and one backward for an activation.
template <class T, class Act>
class BlockProducts {
 public:
  BlockProducts(const Shape& shape, const ExpertTensors<const T>& p, const Blocks& blocks)
      : s_(shape), p_(p), blocks_(blocks) {}

  void forward(const ExecutionSpace& space, Arena& scratch, const PickedRows<T>& rows,
               const Matrix<T>& hidden, const Matrix<T>& out) const {
    const std::size_t channels =
        static_cast<std::size_t>(2 * s_.d) +
        static_cast<std::size_t>(std::min(s_.h, most_hidden) + written_channels) *
            (s_.gated() ? 2 : 1);
    const auto self = *this;
    for_each_unit<T>(KOKOMOE_LABEL("moe::experts::forward"), space, scratch, blocks_.size(),
                     channels * most_rows, [=](const int unit, T* const memory) {
                       self.forward_block(self.blocks_.all(unit), rows, hidden, out, memory);
                     });
  }

  struct Backward {
    PickedRows<T> rows, d_out;
    Matrix<const T> hidden;
    Vector<const T> row_weight;
    Matrix<T> d_rows;
    Vector<T> d_row_weight, d_factor;
    ExpertTensors<T> gradients;
    ExpertAdds adds;
    // Scratch.
    T* d_out_t = nullptr;        ///< of a block: (d, padded rows), times factor_of_rows
    T* x = nullptr;              ///< of a block: panels of columns, each (rows, panel)
    T* d_hidden = nullptr;       ///< of a block: (width, padded rows)
    T* dots = nullptr;           ///< (chunks + 1, padded rows): parts of <d_out, E(x)>
    T* factors = nullptr;        ///< (experts chunks, d): parts of d_factor
    T* rows_factors = nullptr;   ///< (d) factor_of_rows
    bool w2_takes_some = false;  ///< w2_takes_factor of any channel

    T factor(int c) const { return d_out.factor.extent(0) == 0 ? T(1) : d_out.factor(c); }
    /// What of the factor goes into d_out_t: all, unless so little that the sums before the factor
    /// could not be told from those after it. Then W2 takes it.
    T factor_of_rows(int c) const { return w2_takes_factor(c) ? T(1) : factor(c); }
    bool w2_takes_factor(int c) const { return std::abs(factor(c)) < T(1e-6); }
  };

  void backward(const ExecutionSpace& space, Arena& scratch, Backward v) const {
    ArenaScope scope(scratch);
    const auto padded = static_cast<std::size_t>(blocks_.padded_rows);
    const int chunks = this->chunks();
    const auto take = [&](std::size_t columns) {
      // A whole vector more: the last row's last one may be read beyond its end.
      return scratch.vector<T>(padded * columns + Simd<T>::lanes).data();
    };
    v.d_out_t = take(static_cast<std::size_t>(s_.d));
    v.x = take(static_cast<std::size_t>(panels() * Simd<T>::panel));
    v.d_hidden = take(static_cast<std::size_t>(s_.width));
    v.dots = take(static_cast<std::size_t>(chunks) + 1);
    const bool sums_factor = v.d_factor.extent(0) != 0;
    const auto units = static_cast<std::size_t>(experts() * chunks);
    v.factors = scratch.vector<T>(sums_factor ? units * static_cast<std::size_t>(s_.d) : 0).data();
    v.rows_factors = scratch.vector<T>(static_cast<std::size_t>(s_.d)).data();
    for (int c = 0; c < s_.d; ++c) {
      v.rows_factors[c] = v.factor_of_rows(c);
      v.w2_takes_some = v.w2_takes_some || v.w2_takes_factor(c);
    }
    const auto self = *this;
    for_each_unit<T>(KOKOMOE_LABEL("moe::experts::backward_rows"), space, scratch, blocks_.size(),
                     0, [=](const int unit, T*) { self.turn_rows(v, self.blocks_.all(unit)); });
    const std::size_t memory = std::size_t(2) * static_cast<std::size_t>(s_.d) * chunk_width +
                               std::size_t(2) * most_rows * chunk_width + 2 * most_rows;
    for_each_unit<T>(KOKOMOE_LABEL("moe::experts::backward_weights"), space, scratch,
                     experts() * chunks, memory, [=](const int unit, T* const mine) {
                       self.backward_chunk(v, unit / chunks, unit % chunks, mine);
                     });
    for_each_unit<T>(KOKOMOE_LABEL("moe::experts::backward_inputs"), space, scratch, blocks_.size(),
                     static_cast<std::size_t>(s_.d) * most_rows + packed_size(packed_rows),
                     [=](const int unit, T* const mine) {
                       self.backward_inputs(v, self.blocks_.all(unit), mine);
                     });
    if (!sums_factor) return;
    // In the order of experts and channels, so that parts of the experts give the same bits.
    const int d = s_.d;
    for_each_unit<T>(KOKOMOE_LABEL("moe::experts::factor_gradient"), space, scratch,
                     (d + chunk_width - 1) / chunk_width, 0, [=](const int unit, T*) {
                       const int end = std::min((unit + 1) * chunk_width, d);
                       const T* from = v.factors;
                       for (std::size_t u = 0; u < units; ++u, from += d)
                         for (int c = unit * chunk_width; c < end; ++c) v.d_factor(c) += from[c];
                     });
  }

 private:
  int experts() const { return static_cast<int>(blocks_.first_of_expert.extent(0)) - 1; }
  /// Elements of `rows` rows of W1 in strips.
  std::size_t packed_size(int rows) const {
    constexpr int strip = Simd<T>::tile_rows;
    return static_cast<std::size_t>(rows) *
           static_cast<std::size_t>((s_.d + strip - 1) / strip * strip);
  }
  int chunks() const { return (s_.h + chunk_width - 1) / chunk_width; }
  int panels() const { return (s_.d + Simd<T>::panel - 1) / Simd<T>::panel; }
  const T* w1(int expert) const { return p_.w1.data() + offset(expert, s_.width, s_.d); }
  const T* w2(int expert) const { return p_.w2.data() + offset(expert, s_.d, s_.h); }
  static std::size_t offset(int expert, int rows, int columns) {
    return static_cast<std::size_t>(expert) * static_cast<std::size_t>(rows) *
           static_cast<std::size_t>(columns);
  }
  /// Where a block's part of scratch begins that has `columns` for each padded row.
  static std::size_t at(const Block& block, int columns) {
    return static_cast<std::size_t>(block.padded_row) * static_cast<std::size_t>(columns);
  }

  void forward_block(const Block& block, const PickedRows<T>& rows, const Matrix<T>& hidden,
                     const Matrix<T>& out, T* memory) const {
    const int m = block.rows, padded = Simd<T>::padded(m), d = s_.d, h = s_.h;
    const int most = std::min(h, most_hidden);
    T* const x = memory;
    T* const y = x + d * padded;
    T* const active = y + d * padded;
    T* const up = active + most * padded;
    T* const written = up + (s_.gated() ? most * padded : 0);
    const bool streams = hidden.span() * sizeof(T) >= streamed_bytes;
    transpose_rows<T>(
        m, d, [&](int i) { return rows.row(block.row + i); }, x, padded);
    // (width, m): the gate's channels first, as W1 has them.
    T* const z = hidden.data() + static_cast<std::size_t>(block.row) * s_.width;
    const T* const b1 = p_.b1.extent(0) == 0 ? nullptr : &p_.b1(block.expert, 0);
    for (int begin = 0; begin < h; begin += most_hidden) {
      const int n = std::min(most_hidden, h - begin);
      multiply_weights<T>(n, padded, d, w1(block.expert) + offset(begin, 1, d), d, x, Into::set,
                          active);
      if (s_.gated())
        multiply_weights<T>(n, padded, d, w1(block.expert) + offset(h + begin, 1, d), d, x,
                            Into::set, up);
      for (int j = 0; j < n; j += written_channels)
        activate(begin + j, std::min(written_channels, n - j), m, b1, active + j * padded,
                 up + j * padded, written, z, streams);
      multiply_weights<T>(d, padded, n, w2(block.expert) + begin, h, active,
                          begin > 0 ? Into::add : Into::set, y);
    }
    if (p_.b2.extent(0) != 0) {
      const T* const b2 = &p_.b2(block.expert, 0);
      for (int c = 0; c < d; ++c)
        for (int t = 0; t < padded; ++t) y[c * padded + t] += b2[c];
    }
    write_rows(m, padded, y, &out(block.row, 0));
    if (streams) Simd<T>::end_streams();
  }

  /// Bias and activation of channels [begin, begin + n) over m tokens, in place; z gets the
  /// pre-activations by way of `written`.
  void activate(int begin, int n, int m, const T* b1, T* active, T* up, T* written, T* z,
                bool streams) const {
    const int padded = Simd<T>::padded(m);
    T* const written_up = written + written_channels * most_rows;
    for (int j = 0; j < n; ++j) {
      T bias[2] = {0, 0};
      if (b1 != nullptr) bias[0] = b1[begin + j];
      if (b1 != nullptr && s_.gated()) bias[1] = b1[s_.h + begin + j];
      Act::forward(m, bias, active + j * padded, up + j * padded, written + j * m,
                   written_up + j * m);
    }
    const auto write = [&](const T* from, int channel) {
      T* const to = z + static_cast<std::size_t>(channel) * static_cast<std::size_t>(m);
      const auto count = static_cast<std::size_t>(n) * static_cast<std::size_t>(m);
      if (streams)
        stream_copy(count, from, to);
      else
        std::memcpy(to, from, count * sizeof(T));
    };
    write(written, begin);
    if (s_.gated()) write(written_up, s_.h + begin);
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

  /// Puts a block's d_out and rows where the products want them; <d_out, b2> begins d_row_weight.
  void turn_rows(const Backward& v, const Block& block) const {
    const int m = block.rows, padded = Simd<T>::padded(m), d = s_.d;
    constexpr int panel = Simd<T>::panel;
    T* const turned = v.d_out_t + at(block, d);
    transpose_rows<T>(
        m, d, [&](int i) { return v.d_out.row(block.row + i); }, turned, padded);
    if (v.d_out.factor.extent(0) != 0)
      for (int c = 0; c < d; ++c) {
        const T factor = v.factor_of_rows(c);
#pragma omp simd
        for (int t = 0; t < padded; ++t) turned[c * padded + t] *= factor;
      }
    T* const x = v.x + at(block, panels() * panel);
    for (int p = 0; p < panels(); ++p)
      for (int t = 0; t < m; ++t) {
        const T* const from = v.rows.row(block.row + t) + p * panel;
        T* const to = x + (p * m + t) * panel;
        const int columns = std::min(panel, d - p * panel);
        for (int c = 0; c < columns; ++c) to[c] = from[c];
        for (int c = columns; c < panel; ++c) to[c] = T(0);
      }
    T* const dot = v.dots + block.padded_row;
    for (int t = 0; t < padded; ++t) dot[t] = T(0);
    if (v.d_row_weight.extent(0) == 0 || p_.b2.extent(0) == 0) return;
    const T* const b2 = &p_.b2(block.expert, 0);
    for (int c = 0; c < d; ++c) {
      const T bias = v.w2_takes_factor(c) ? v.factor(c) * b2[c] : b2[c];
      for (int t = 0; t < m; ++t) dot[t] += bias * turned[c * padded + t];
    }
  }

  /// Hidden channels [begin, begin + n) of an expert, over all its rows: dW1, db1, dW2 of them, and
  /// d_hidden for backward_inputs. The first chunk does db2.
  void backward_chunk(const Backward& v, int expert, int chunk, T* memory) const {
    const int d = s_.d, h = s_.h, begin = chunk * chunk_width, n = std::min(chunk_width, h - begin);
    const int first = blocks_.first_of_expert(expert), end = blocks_.first_of_expert(expert + 1);
    if (first == end) {
      sums_factor_of(v, expert, chunk);
      clear(v, expert, begin, n);
      return;
    }
    T* const w2_chunk = memory;                     // (d, chunk_width)
    T* const sums_w2 = w2_chunk + d * chunk_width;  // (d, chunk_width)
    T* const active_t = sums_w2 + d * chunk_width;  // (chunk_width, padded)
    T* const active = active_t + most_rows * chunk_width;
    T* const weight = active + most_rows * chunk_width;
    T* const no_dot = weight + most_rows;
    pack_columns(w2(expert) + begin, d, h, n, w2_chunk);
    for (int c = 0; v.w2_takes_some && c < d; ++c)
      if (v.w2_takes_factor(c))
        for (int j = 0; j < n; ++j) w2_chunk[c * chunk_width + j] *= v.factor(c);
    T* const dw2 = v.gradients.w2.data() + offset(expert, d, h) + begin;
    T* const factors = sums_factor_of(v, expert, chunk);
    // Rows of dW2 are far apart: the sums of several blocks stay together until they are whole.
    const bool direct =
        v.d_out.factor.extent(0) == 0 && v.d_factor.extent(0) == 0 && end - first == 1;
    for (int b = first; b < end; ++b) {
      const Block& block = blocks_.all(b);
      const int m = block.rows, padded = Simd<T>::padded(m);
      const T* const d_out = v.d_out_t + at(block, d);
      T* const d_hidden = v.d_hidden + at(block, s_.width) + begin * padded;
      T* const d_up = s_.gated() ? d_hidden + h * padded : nullptr;
      for (int t = 0; t < m; ++t)
        weight[t] = v.row_weight.extent(0) == 0 ? T(1) : v.row_weight(block.row + t);
      if (chunk == 0) add_output_bias(v, expert, block, weight, b > first, factors);
      multiply_block<T>(n, padded, d, {w2_chunk, 1, chunk_width}, d_out, padded, Into::set,
                        d_hidden, padded);
      const T* const z = v.hidden.data() + static_cast<std::size_t>(block.row) * s_.width +
                         static_cast<std::size_t>(begin) * m;
      T* const dot = v.d_row_weight.extent(0) == 0
                         ? no_dot
                         : v.dots + static_cast<std::size_t>(chunk + 1) * blocks_.padded_rows +
                               block.padded_row;
      std::fill_n(dot, m, T(0));
      for (int j = 0; j < n; ++j) {
        T sums[2] = {0, 0};
        Act::backward(m, z + static_cast<std::size_t>(j) * m,
                      z + static_cast<std::size_t>(s_.gated() ? h + j : j) * m, weight,
                      d_hidden + j * padded, s_.gated() ? d_up + j * padded : nullptr,
                      active_t + j * padded, dot, sums);
        add_hidden_bias(v, expert, begin + j, sums, b > first);
      }
      transpose_rows<T>(
          n, m, [&](int j) { return active_t + j * padded; }, active, chunk_width);
      if (direct)
        multiply_block<T>(d, n, m, {d_out, padded, 1}, active, chunk_width,
                          into(v.adds.w2, b, first, end), dw2, h);
      else
        add_second_weights(v, {n, m, padded, b == first, b + 1 == end}, d_out, active, w2_chunk,
                           sums_w2, w2(expert) + begin, dw2, factors);
      const Into w1_into = into(v.adds.w1, b, first, end);
      add_first_weights(v, block, begin, n, d_hidden, w1_into);
      if (s_.gated()) add_first_weights(v, block, h + begin, n, d_up, w1_into);
    }
    Simd<T>::end_streams();
  }

  /// This unit's part of d_factor, zeros at first; null when nobody wants it.
  T* sums_factor_of(const Backward& v, int expert, int chunk) const {
    if (v.d_factor.extent(0) == 0) return nullptr;
    T* const factors = v.factors + offset(expert * chunks() + chunk, 1, s_.d);
    std::fill_n(factors, s_.d, T(0));
    return factors;
  }

  /// A block's part of dW2 of n channels.
  struct SecondProduct {
    int n, m, padded;
    bool first, last;  ///< of the expert's blocks

    /// Rows of dW2 that follow row c. One block alone needs no more memory than those.
    T* sums_of(T* sums, int c) const { return first && last ? sums : sums + c * chunk_width; }
  };

  /// Sums the block's part; with the last one dW2 = or += the sums, and factors += the sums before
  /// the factor by W2, row by row. `w2_chunk`, `sums`: chunk_width apart; `w2`, `dw2`: as they lie.
  void add_second_weights(const Backward& v, const SecondProduct& p, const T* d_out,
                          const T* active, const T* w2_chunk, T* sums, const T* w2, T* dw2,
                          T* factors) const {
    using S = Simd<T>;
    // Few lines at a time: written in longer runs they fill the buffers of a core, which then
    // waits.
    constexpr int wide = 2 * S::lanes;
    const bool aligned = reinterpret_cast<std::uintptr_t>(dw2) % S::bytes == 0 &&
                         static_cast<std::size_t>(s_.h) * sizeof(T) % S::bytes == 0;
    const bool streams = p.last && aligned && !v.adds.w2 && !v.w2_takes_some && p.n % S::lanes == 0;
    for (int c = 0; c < s_.d; c += S::lanes) {
      const int rows = std::min(S::lanes, s_.d - c);
      const bool streamed = streams && rows == S::lanes;
      T* const sum = p.sums_of(sums, c);
      typename S::Vector dots[S::lanes] = {};
      for (int r = 0; r < rows; r += S::tile_rows)
        for (int j = 0; j < p.n; j += wide) {
          const int height = std::min(S::tile_rows, rows - r), width = std::min(wide, p.n - j);
          T* const tile = sum + r * chunk_width + j;
          multiply_block<T>(height, width, p.m, {d_out + (c + r) * p.padded, p.padded, 1},
                            active + j, chunk_width, p.first ? Into::set : Into::add, tile,
                            chunk_width);
          if (streamed)
            stream_tile(height, width, tile, w2_chunk + (c + r) * chunk_width + j,
                        dw2 + offset(c + r, 1, s_.h) + j, dots + r);
        }
      if (!p.last) continue;
      if (!streamed) {
        write_second_weights(v, c, rows, p.n, sum, w2_chunk, w2, dw2, factors);
      } else if (factors != nullptr) {
        simd_tile::transpose_square<T>(dots);
        for (int r = 1; r < S::lanes; ++r) dots[0] += dots[r];
        S::store(factors + c, S::load(factors + c) + dots[0] / S::load(v.rows_factors + c));
      }
    }
  }

  /// Rows of sums to dW2, and their products with rows of W2, lane by lane.
  void stream_tile(int rows, int columns, const T* sums, const T* w2_chunk, T* dw2,
                   typename Simd<T>::Vector* dots) const {
    using S = Simd<T>;
    for (int r = 0; r < rows; ++r, sums += chunk_width, w2_chunk += chunk_width, dw2 += s_.h)
      for (int j = 0; j < columns; j += S::lanes) {
        const typename S::Vector x = S::load(sums + j);
        dots[r] += S::load(w2_chunk + j) * x;
        S::stream(dw2 + j, x);
      }
  }

  /// The same for rows [first, first + rows) of any shape.
  void write_second_weights(const Backward& v, int first, int rows, int n, const T* sum,
                            const T* w2_chunk, const T* w2, T* dw2, T* factors) const {
    for (int c = first; c < first + rows; ++c, sum += chunk_width) {
      T* const to = dw2 + offset(c, 1, s_.h);
      const bool by_w2 = v.w2_takes_factor(c);
      if (factors != nullptr) {
        const T* const w = by_w2 ? w2 + offset(c, 1, s_.h) : w2_chunk + c * chunk_width;
        T dot = 0;
#pragma omp simd reduction(+ : dot)
        for (int j = 0; j < n; ++j) dot += w[j] * sum[j];
        factors[c] += dot / v.factor_of_rows(c);
      }
      const T factor = by_w2 ? v.factor(c) : T(1);
      for (int j = 0; j < n; ++j) to[j] = v.adds.w2 ? to[j] + factor * sum[j] : factor * sum[j];
    }
  }

  /// How block b of an expert's [first, end) writes a weight's gradient.
  static Into into(bool adds, int b, int first, int end) {
    if (adds || b > first) return Into::add;
    return end - first == 1 ? Into::stream : Into::set;
  }

  /// dW1 of channels [begin, begin + n) from one block.
  void add_first_weights(const Backward& v, const Block& block, int begin, int n, const T* d_hidden,
                         Into into) const {
    constexpr int panel = Simd<T>::panel;
    const int m = block.rows, padded = Simd<T>::padded(m), d = s_.d;
    T* const to = v.gradients.w1.data() + offset(block.expert, s_.width, d) + offset(begin, 1, d);
    const T* const x = v.x + at(block, panels() * panel);
    for (int p = 0; p < panels(); ++p)
      multiply_block<T>(n, std::min(panel, d - p * panel), m, {d_hidden, padded, 1},
                        x + p * m * panel, panel, into, to + p * panel, d);
  }

  void add_hidden_bias(const Backward& v, int expert, int channel, const T (&sums)[2],
                       bool later) const {
    if (v.gradients.b1.extent(0) == 0) return;
    const bool add = v.adds.b1 || later;
    T* const to = &v.gradients.b1(expert, channel);
    *to = add ? *to + sums[0] : sums[0];
    if (s_.gated()) to[s_.h] = add ? to[s_.h] + sums[1] : sums[1];
  }

  void add_output_bias(const Backward& v, int expert, const Block& block, const T* weight,
                       bool later, T* factors) const {
    if (v.gradients.b2.extent(0) == 0) return;
    const int m = block.rows, padded = Simd<T>::padded(m);
    const T* const d_out = v.d_out_t + at(block, s_.d);
    for (int c = 0; c < s_.d; ++c) {
      T sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int t = 0; t < m; ++t) sum += weight[t] * d_out[c * padded + t];
      if (factors != nullptr) factors[c] += p_.b2(expert, c) * sum / v.factor_of_rows(c);
      if (v.w2_takes_factor(c)) sum *= v.factor(c);
      T& to = v.gradients.b2(expert, c);
      to = v.adds.b2 || later ? to + sum : sum;
    }
  }

  /// The gradients of an expert without rows, as far as they are this unit's.
  void clear(const Backward& v, int expert, int begin, int n) const {
    const int d = s_.d, h = s_.h;
    const auto zero = [](T* from, std::size_t size) { std::fill_n(from, size, T(0)); };
    for (int half = 0; half < (s_.gated() ? 2 : 1); ++half) {
      const int channel = half * h + begin;
      if (!v.adds.w1)
        zero(v.gradients.w1.data() + offset(expert, s_.width, d) + offset(channel, 1, d),
             static_cast<std::size_t>(n) * d);
      if (!v.adds.b1 && v.gradients.b1.extent(0) != 0)
        zero(&v.gradients.b1(expert, channel), static_cast<std::size_t>(n));
    }
    if (!v.adds.w2)
      for (int c = 0; c < d; ++c)
        zero(v.gradients.w2.data() + offset(expert, d, h) + offset(c, 1, h) + begin,
             static_cast<std::size_t>(n));
    if (begin == 0 && !v.adds.b2 && v.gradients.b2.extent(0) != 0)
      zero(&v.gradients.b2(expert, 0), static_cast<std::size_t>(d));
  }

  /// to (rows, chunk_width) = the first n columns of from (rows, columns).
  static void pack_columns(const T* from, int rows, int columns, int n, T* to) {
    constexpr int rows_ahead = 16, line = 64 / static_cast<int>(sizeof(T));
    for (int r = 0; r < rows; ++r, from += columns, to += chunk_width) {
      if (r + rows_ahead < rows)
        for (int c = 0; c < n; c += line) __builtin_prefetch(from + rows_ahead * columns + c, 0, 2);
      for (int c = 0; c < n; ++c) to[c] = from[c];
    }
  }

  /// d_rows = d_hidden W1, and what is left of d_row_weight.
  void backward_inputs(const Backward& v, const Block& block, T* memory) const {
    const int m = block.rows, padded = Simd<T>::padded(m), d = s_.d;
    const T* const d_hidden = v.d_hidden + at(block, s_.width);
    const T* const w = w1(block.expert);
    constexpr int strip = Simd<T>::tile_rows;
    T* const packed = memory + d * padded;
    for (int k = 0; k < s_.width; k += packed_rows) {
      const int n = std::min(packed_rows, s_.width - k);
      pack_strips<T>(n, d, w + offset(k, 1, d), d, packed);
      Ahead ahead(w + offset(k + n, 1, d),
                  w + offset(std::min(k + 2 * packed_rows, s_.width), 1, d));
      for (int c = 0; c < d; c += strip)
        multiply_block<T>(std::min(strip, d - c), padded, n, packed_strip<T>(packed, n, c / strip),
                          d_hidden + k * padded, padded, k > 0 ? Into::add : Into::set,
                          memory + c * padded, padded, ahead, lines_ahead<T>(padded));
    }
    write_rows(m, padded, memory, &v.d_rows(block.row, 0));
    if (v.d_row_weight.extent(0) == 0) return;
    for (int t = 0; t < m; ++t) {
      T sum = 0;
      for (int c = 0; c <= chunks(); ++c)
        sum += v.dots[static_cast<std::size_t>(c) * blocks_.padded_rows + block.padded_row + t];
      v.d_row_weight(block.row + t) = sum;
    }
  }

  Shape s_;
  ExpertTensors<const T> p_;
  Blocks blocks_;
};

/// f(BlockProducts) of the activation.
template <class T, class F>
void with_products(Activation activation, const Shape& shape, const ExpertTensors<const T>& p,
                   const Blocks& blocks, const F& f) {
  switch (activation) {
    case Activation::relu:
      return f(BlockProducts<T, Plain<Relu, T>>(shape, p, blocks));
    case Activation::gelu:
      return f(BlockProducts<T, Plain<Gelu, T>>(shape, p, blocks));
    case Activation::swiglu:
      return f(BlockProducts<T, Gated<T>>(shape, p, blocks));
  }
}

}  // namespace

template <class T>
void forward_blocks(const ExecutionSpace& space, Arena& scratch, Activation activation,
                    const ExpertTensors<const T>& parameters, std::span<const int> offsets,
                    const PickedRows<T>& rows, const Matrix<T>& hidden, const Matrix<T>& out) {
  ArenaScope scope(scratch);
  with_products<T>(
      activation, shape_of(activation, rows, parameters.w2), parameters, cut<T>(scratch, offsets),
      [&](const auto& products) { products.forward(space, scratch, rows, hidden, out); });
}

template <class T>
void backward_blocks(const ExecutionSpace& space, Arena& scratch, Activation activation,
                     const ExpertTensors<const T>& parameters, std::span<const int> offsets,
                     const PickedRows<T>& rows, const Matrix<const T>& hidden,
                     const PickedRows<T>& d_out, const Vector<const T>& row_weight,
                     const Matrix<T>& d_rows, const Vector<T>& d_row_weight,
                     const Vector<T>& d_factor, const ExpertTensors<T>& gradients,
                     const ExpertAdds& adds) {
  ArenaScope scope(scratch);
  with_products<T>(activation, shape_of(activation, rows, parameters.w2), parameters,
                   cut<T>(scratch, offsets), [&](const auto& products) {
                     products.backward(space, scratch,
                                       {rows, d_out, hidden, row_weight, d_rows, d_row_weight,
                                        d_factor, gradients, adds});
                   });
}

#define KOKOMOE_INSTANTIATE(T)                                                                  \
  template void forward_blocks<T>(const ExecutionSpace&, Arena&, Activation,                    \
                                  const ExpertTensors<const T>&, std::span<const int>,          \
                                  const PickedRows<T>&, const Matrix<T>&, const Matrix<T>&);    \
  template void backward_blocks<T>(                                                             \
      const ExecutionSpace&, Arena&, Activation, const ExpertTensors<const T>&,                 \
      std::span<const int>, const PickedRows<T>&, const Matrix<const T>&, const PickedRows<T>&, \
      const Vector<const T>&, const Matrix<T>&, const Vector<T>&, const Vector<T>&,             \
      const ExpertTensors<T>&, const ExpertAdds&);
KOKOMOE_INSTANTIATE(float)
KOKOMOE_INSTANTIATE(double)
#undef KOKOMOE_INSTANTIATE

}  // namespace kokomoe::detail

#endif
