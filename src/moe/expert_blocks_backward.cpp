// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "moe/row_blocks.hpp"

#if KOKOMOE_EXPERT_BLOCKS

#include <cmath>
#include <cstdint>

namespace kokomoe::detail {

namespace {

constexpr int chunk_width = backward_chunk_width;
/// Rows of W1 that the last pass packs at a time.
constexpr int packed_rows = 128;

/// What backward is given, and its scratch.
template <class T>
struct Backward {
  PickedRows<T> rows, d_out;
  KeptRows<T> hidden;
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

template <class T, class Act>
class BackwardBlocks : RowBlocks<T> {
  using Base = RowBlocks<T>;
  using Base::s_, Base::p_, Base::blocks_, Base::offset, Base::at, Base::w1, Base::w2;
  using Base::write_rows;
  using Backward = kokomoe::detail::Backward<T>;

 public:
  using Base::Base;

  void run(const ExecutionSpace& space, Arena& scratch, Backward v) const {
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
    const Weights<T> columns = w2(expert) + begin;
    columns.visit([&](const auto* from) { pack_columns(from, d, h, n, w2_chunk); });
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
      T* const dot = v.d_row_weight.extent(0) == 0
                         ? no_dot
                         : v.dots + static_cast<std::size_t>(chunk + 1) * blocks_.padded_rows +
                               block.padded_row;
      std::fill_n(dot, m, T(0));
      for (int j = 0; j < n; ++j) {
        T sums[2] = {0, 0}, widened[2][most_rows];
        const T* const z = pre_activations(v.hidden, block, begin + j, widened[0]);
        Act::backward(m, z,
                      s_.gated() ? pre_activations(v.hidden, block, h + begin + j, widened[1]) : z,
                      weight, d_hidden + j * padded, s_.gated() ? d_up + j * padded : nullptr,
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
                           sums_w2, columns, dw2, factors);
      const Into w1_into = into(v.adds.w1, b, first, end);
      add_first_weights(v, block, begin, n, d_hidden, w1_into);
      if (s_.gated()) add_first_weights(v, block, h + begin, n, d_up, w1_into);
    }
    Simd<T>::end_streams();
  }

  /// One hidden channel of a block, its tokens side by side; in `widened` where it was rounded.
  const T* pre_activations(const KeptRows<T>& hidden, const Block& block, int channel,
                           T* widened) const {
    const std::size_t begin = offset(block.row, s_.width, 1) + offset(channel, block.rows, 1);
    if (!hidden.rounded()) return hidden.wide().data() + begin;
    copy_elements(block.rows, hidden.narrow().data() + begin, widened);
    return widened;
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
  /// the factor by W2, row by row. `w2_chunk`, `sums`: chunk_width apart; `weights` (W2), `dw2`: as
  /// they lie.
  void add_second_weights(const Backward& v, const SecondProduct& p, const T* d_out,
                          const T* active, const T* w2_chunk, T* sums, const Weights<T>& weights,
                          T* dw2, T* factors) const {
    using S = Simd<T>;
    constexpr int wide = 2 * S::lanes;
    if (!p.last) {
      // In float half of `active` at a time, which a first cache of 48 KiB can hold.
      for (int j = 0; j < p.n; j += wide)
        multiply_block<T>(s_.d, std::min(wide, p.n - j), p.m, {d_out, p.padded, 1}, active + j,
                          chunk_width, p.first ? Into::set : Into::add, sums + j, chunk_width);
      return;
    }
    int c = 0;
    if (streams(v, p, dw2)) {
      const int whole = s_.d / S::lanes * S::lanes;
      for (; c < whole; c += S::lanes) {
        T* const some = factors == nullptr ? nullptr : factors + c;
        const auto stream = [&](auto first) {
          stream_second_weights<decltype(first)::value>(
              p, d_out + c * p.padded, active, w2_chunk + c * chunk_width, p.sums_of(sums, c),
              dw2 + offset(c, 1, s_.h), some, v.rows_factors + c);
        };
        if (p.first)
          stream(std::true_type());
        else
          stream(std::false_type());
      }
    }
    for (; c < s_.d; c += S::lanes) {
      const int rows = std::min(S::lanes, s_.d - c);
      T* const sum = p.sums_of(sums, c);
      multiply_block<T>(rows, p.n, p.m, {d_out + c * p.padded, p.padded, 1}, active, chunk_width,
                        p.first ? Into::set : Into::add, sum, chunk_width);
      write_second_weights(v, c, rows, p.n, sum, w2_chunk, weights, dw2, factors);
    }
  }

  /// Whether rows of dW2 are whole vectors that lie where stores past the caches want them, and are
  /// written once and as they are. A row of a tile needs a lane of the dot products.
  bool streams(const Backward& v, const SecondProduct& p, const T* dw2) const {
    using S = Simd<T>;
    const bool aligned = reinterpret_cast<std::uintptr_t>(dw2) % S::bytes == 0 &&
                         static_cast<std::size_t>(s_.h) * sizeof(T) % S::bytes == 0;
    return S::lanes % S::tile_rows == 0 && aligned && !v.adds.w2 && !v.w2_takes_some &&
           p.n % S::lanes == 0;
  }

  /// As many rows of dW2 as a vector has lanes: the last block's product with the `sums` of those
  /// before it; and, unless `factors` is null, their products with W2, before the factor.
  /// A function of its own: inlined into backward_chunk it costs a layer of 64 experts 1 %.
  template <bool first>
  __attribute__((noinline)) void stream_second_weights(const SecondProduct& p, const T* d_out,
                                                       const T* active, const T* w2_chunk,
                                                       const T* sums, T* dw2, T* factors,
                                                       const T* rows_factors) const {
    using S = Simd<T>;
    if constexpr (S::lanes % S::tile_rows == 0) {
      typename S::Vector dots[S::lanes] = {};
      for (int r = 0; r < S::lanes; r += S::tile_rows) {
        const Strided<T> rows{d_out + r * p.padded, p.padded, 1};
        const int skipped = r * chunk_width;
        T* const to = dw2 + offset(r, 1, s_.h);
        // Few lines at a time: written in longer runs they fill the buffers of a core, which then
        // waits.
        int j = 0;
        for (; j + 2 * S::lanes <= p.n; j += 2 * S::lanes)
          stream_tile<2, first>(p, rows, active + j, sums + skipped + j, w2_chunk + skipped + j,
                                to + j, dots + r);
        if (j < p.n)
          stream_tile<1, first>(p, rows, active + j, sums + skipped + j, w2_chunk + skipped + j,
                                to + j, dots + r);
      }
      if (factors == nullptr) return;
      simd_tile::transpose_square<T>(dots);
      for (int r = 1; r < S::lanes; ++r) dots[0] += dots[r];
      S::store(factors, S::load(factors) + dots[0] / S::load(rows_factors));
    }
  }

  /// A tile of tile_rows and `vectors`, from registers to dW2. `first`: there are no sums yet.
  template <int vectors, bool first>
  void stream_tile(const SecondProduct& p, const Strided<T>& d_out, const T* active, const T* sums,
                   const T* w2_chunk, T* dw2, typename Simd<T>::Vector* dots) const {
    using S = Simd<T>;
    typename S::Vector sum[S::tile_rows][vectors];
    Ahead nothing;
    sum_tile<T, S::tile_rows, vectors>(p.m, d_out, active, chunk_width, sum, nothing, 0);
#pragma GCC unroll 16
    for (int r = 0; r < S::tile_rows; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) {
        const int i = r * chunk_width + v * S::lanes;
        const typename S::Vector x = first ? sum[r][v] : S::load(sums + i) + sum[r][v];
        dots[r] += S::load(w2_chunk + i) * x;
        S::stream(dw2 + offset(r, 1, s_.h) + v * S::lanes, x);
      }
  }

  /// Finished sums of rows [first, first + rows), of any shape, to dW2, and their products with W2
  /// to factors.
  void write_second_weights(const Backward& v, int first, int rows, int n, const T* sum,
                            const T* w2_chunk, const Weights<T>& weights, T* dw2,
                            T* factors) const {
    for (int c = first; c < first + rows; ++c, sum += chunk_width) {
      T* const to = dw2 + offset(c, 1, s_.h);
      const bool by_w2 = v.w2_takes_factor(c);
      if (factors != nullptr) {
        T own[chunk_width];
        if (by_w2) (weights + offset(c, 1, s_.h)).copy(n, own);
        const T* const w = by_w2 ? own : w2_chunk + c * chunk_width;
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
  template <class From>
  static void pack_columns(const From* from, int rows, int columns, int n, T* to) {
    constexpr int rows_ahead = 16, line = 64 / static_cast<int>(sizeof(From));
    for (int r = 0; r < rows; ++r, from += columns, to += chunk_width) {
      if (r + rows_ahead < rows)
        for (int c = 0; c < n; c += line) __builtin_prefetch(from + rows_ahead * columns + c, 0, 2);
      copy_elements(n, from, to);
    }
  }

  /// d_rows = d_hidden W1, and what is left of d_row_weight.
  void backward_inputs(const Backward& v, const Block& block, T* memory) const {
    const int m = block.rows, padded = Simd<T>::padded(m), d = s_.d;
    const T* const d_hidden = v.d_hidden + at(block, s_.width);
    const Weights<T> all = w1(block.expert);
    constexpr int strip = Simd<T>::tile_rows;
    T* const packed = memory + d * padded;
    for (int k = 0; k < s_.width; k += packed_rows) {
      const int n = std::min(packed_rows, s_.width - k);
      const Weights<T> w = all + offset(k, 1, d);
      w.visit([&](const auto* from) { pack_strips(n, d, from, d, packed); });
      Ahead ahead = (w + offset(n, 1, d)).ahead(std::min(packed_rows, s_.width - k - n), d, d);
      for (int c = 0; c < d; c += strip)
        multiply_block<T>(std::min(strip, d - c), padded, n, packed_strip<T>(packed, n, c / strip),
                          d_hidden + k * padded, padded, k > 0 ? Into::add : Into::set,
                          memory + c * padded, padded, ahead, lines_ahead<T>(padded, w.element()));
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
};

}  // namespace

template <class T>
void backward_blocks(const ExecutionSpace& space, Arena& scratch, Activation activation,
                     const ExpertWeights<T>& weights, std::span<const int> offsets,
                     const PickedRows<T>& rows, const KeptRows<T>& hidden,
                     const PickedRows<T>& d_out, const Vector<const T>& row_weight,
                     const Matrix<T>& d_rows, const Vector<T>& d_row_weight,
                     const Vector<T>& d_factor, const ExpertTensors<T>& gradients,
                     const ExpertAdds& adds) {
  ArenaScope scope(scratch);
  const Shape shape = shape_of(activation, rows, weights.whole.w2);
  const Blocks blocks = cut<T>(scratch, offsets);
  with_activation<T>(activation, [&](auto act) {
    BackwardBlocks<T, decltype(act)>(shape, weights, blocks)
        .run(space, scratch,
             {rows, d_out, hidden, row_weight, d_rows, d_row_weight, d_factor, gradients, adds});
  });
}

#define KOKOMOE_INSTANTIATE(T)                                                                     \
  template void backward_blocks<T>(const ExecutionSpace&, Arena&, Activation,                      \
                                   const ExpertWeights<T>&, std::span<const int>,                  \
                                   const PickedRows<T>&, const KeptRows<T>&, const PickedRows<T>&, \
                                   const Vector<const T>&, const Matrix<T>&, const Vector<T>&,     \
                                   const Vector<T>&, const ExpertTensors<T>&, const ExpertAdds&);
KOKOMOE_INSTANTIATE(float)
KOKOMOE_INSTANTIATE(double)
#undef KOKOMOE_INSTANTIATE

}  // namespace kokomoe::detail

#endif
