// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "moe/row_blocks.hpp"

#if KOKOMOE_EXPERT_BLOCKS

#include <cstring>

namespace kokomoe::detail {

namespace {

/// Hidden channels that forward takes from the first matrix to the second at a time.
constexpr int most_hidden = 1024;
/// Pre-activations of this many bytes leave the caches before backward reads them, so they are
/// written past them.
constexpr std::size_t streamed_bytes = std::size_t(1) << 20;
/// Channels whose pre-activations are written at a time.
constexpr int written_channels = 16;

/// C (rows, columns) = or += W B for a row-major W (rows, k) that is read once, from memory.
/// `strip`: memory for tile_rows k elements, into which rounded weights are widened.
template <class T>
void multiply_weights(int rows, int columns, int k, const Weights<T>& w, std::ptrdiff_t w_row,
                      const T* b, Into into, T* c, T* strip) {
  constexpr int height = Simd<T>::tile_rows;
  Ahead ahead = (w + static_cast<std::size_t>(height * w_row)).ahead(rows - height, k, w_row);
  // Rows that lie apart are found without help where eight are read at once, not one by one.
  const bool asks = w_row == k || w.rounded != nullptr;
  const int lines = asks ? lines_ahead<T>(columns, w.element()) : 0;
  if (w.rounded == nullptr) {
    multiply_block<T>(rows, columns, k, {w.whole, w_row, 1}, b, columns, into, c, columns, ahead,
                      lines);
    return;
  }
  for (int r = 0; r < rows; r += height) {
    const int some = std::min(height, rows - r);
    for (int i = 0; i < some; ++i)
      (w + static_cast<std::size_t>((r + i) * w_row)).copy(k, strip + i * k);
    multiply_block<T>(some, columns, k, {strip, k, 1}, b, columns, into, c + r * columns, columns,
                      ahead, lines);
  }
}

template <class T, class Act>
class ForwardBlocks : RowBlocks<T> {
  using Base = RowBlocks<T>;
  using Base::s_, Base::p_, Base::blocks_, Base::offset, Base::w1, Base::w2;
  using Base::w1_, Base::write_rows;

 public:
  using Base::Base;

  void run(const ExecutionSpace& space, Arena& scratch, const PickedRows<T>& rows,
           const KeptRows<T>& hidden, const Matrix<T>& out) const {
    const std::size_t channels =
        static_cast<std::size_t>(2 * s_.d) +
        static_cast<std::size_t>(std::min(s_.h, most_hidden) + written_channels) *
            (s_.gated() ? 2 : 1) +
        (hidden.rounded() ? written_channels / 2 : 0);
    const auto strip =
        static_cast<std::size_t>(Simd<T>::tile_rows * std::max(s_.d, std::min(s_.h, most_hidden)));
    const auto self = *this;
    for_each_unit<T>(KOKOMOE_LABEL("moe::experts::forward"), space, scratch, blocks_.size(),
                     channels * most_rows + (w1_.extent(0) != 0 ? strip : 0),
                     [=](const int unit, T* const memory) {
                       self.forward_block(self.blocks_.all(unit), rows, hidden, out, memory);
                     });
  }

 private:
  /// Where pre-activations go.
  struct Kept {
    T* wide;
    Bfloat16* narrow;   ///< instead
    T* written;         ///< on their way, (channels, m), a second half for the gate's partners
    Bfloat16* rounded;  ///< (channels, m) likewise
    bool streams;

    void put(std::size_t count, const T* from, std::size_t at) const {
      if (narrow == nullptr) return copy(count * sizeof(T), from, wide + at);
#pragma omp simd
      for (std::size_t i = 0; i < count; ++i) rounded[i].set(static_cast<float>(from[i]));
      copy(count * sizeof(Bfloat16), rounded, narrow + at);
    }
    void copy(std::size_t bytes, const void* from, void* to) const {
      if (streams)
        stream_copy(bytes, from, to);
      else
        std::memcpy(to, from, bytes);
    }
  };

  void forward_block(const Block& block, const PickedRows<T>& rows, const KeptRows<T>& hidden,
                     const Matrix<T>& out, T* memory) const {
    const int m = block.rows, padded = Simd<T>::padded(m), d = s_.d, h = s_.h;
    const int most = std::min(h, most_hidden);
    T* const x = memory;
    T* const y = x + d * padded;
    T* const active = y + d * padded;
    T* const up = active + most * padded;
    T* const written = up + (s_.gated() ? most * padded : 0);
    transpose_rows<T>(
        m, d, [&](int i) { return rows.row(block.row + i); }, x, padded);
    T* const strip = written + written_channels * most_rows * (s_.gated() ? 2 : 1) +
                     (hidden.rounded() ? written_channels / 2 * most_rows : 0);
    // (width, m): the gate's channels first, as W1 has them.
    const std::size_t begin_z = offset(block.row, s_.width, 1);
    const bool narrow = hidden.rounded();
    const Kept z{
        narrow ? nullptr : hidden.wide().data() + begin_z,
        narrow ? hidden.narrow().data() + begin_z : nullptr, written,
        reinterpret_cast<Bfloat16*>(written + written_channels * most_rows * (s_.gated() ? 2 : 1)),
        hidden.bytes() >= streamed_bytes};
    const T* const b1 = p_.b1.extent(0) == 0 ? nullptr : &p_.b1(block.expert, 0);
    for (int begin = 0; begin < h; begin += most_hidden) {
      const int n = std::min(most_hidden, h - begin);
      multiply_weights<T>(n, padded, d, w1(block.expert) + offset(begin, 1, d), d, x, Into::set,
                          active, strip);
      if (s_.gated())
        multiply_weights<T>(n, padded, d, w1(block.expert) + offset(h + begin, 1, d), d, x,
                            Into::set, up, strip);
      for (int j = 0; j < n; j += written_channels)
        activate(begin + j, std::min(written_channels, n - j), m, b1, active + j * padded,
                 up + j * padded, z);
      multiply_weights<T>(d, padded, n, w2(block.expert) + begin, h, active,
                          begin > 0 ? Into::add : Into::set, y, strip);
    }
    if (p_.b2.extent(0) != 0) {
      const T* const b2 = &p_.b2(block.expert, 0);
      for (int c = 0; c < d; ++c)
        for (int t = 0; t < padded; ++t) y[c * padded + t] += b2[c];
    }
    write_rows(m, padded, y, &out(block.row, 0));
    if (z.streams) Simd<T>::end_streams();
  }

  /// Bias and activation of channels [begin, begin + n) over m tokens, in place; z gets the
  /// pre-activations.
  void activate(int begin, int n, int m, const T* b1, T* active, T* up, const Kept& z) const {
    const int padded = Simd<T>::padded(m);
    T* const written_up = z.written + written_channels * most_rows;
    for (int j = 0; j < n; ++j) {
      T bias[2] = {0, 0};
      if (b1 != nullptr) bias[0] = b1[begin + j];
      if (b1 != nullptr && s_.gated()) bias[1] = b1[s_.h + begin + j];
      Act::forward(m, bias, active + j * padded, up + j * padded, z.written + j * m,
                   written_up + j * m);
    }
    z.put(offset(n, m, 1), z.written, offset(begin, m, 1));
    if (s_.gated()) z.put(offset(n, m, 1), written_up, offset(s_.h + begin, m, 1));
  }
};

}  // namespace

template <class T>
void forward_blocks(const ExecutionSpace& space, Arena& scratch, Activation activation,
                    const ExpertWeights<T>& weights, std::span<const int> offsets,
                    const PickedRows<T>& rows, const KeptRows<T>& hidden, const Matrix<T>& out) {
  ArenaScope scope(scratch);
  const Shape shape = shape_of(activation, rows, weights.whole.w2);
  const Blocks blocks = cut<T>(scratch, offsets);
  with_activation<T>(activation, [&](auto act) {
    ForwardBlocks<T, decltype(act)>(shape, weights, blocks).run(space, scratch, rows, hidden, out);
  });
}

#define KOKOMOE_INSTANTIATE(T)                                                   \
  template void forward_blocks<T>(const ExecutionSpace&, Arena&, Activation,     \
                                  const ExpertWeights<T>&, std::span<const int>, \
                                  const PickedRows<T>&, const KeptRows<T>&, const Matrix<T>&);
KOKOMOE_INSTANTIATE(float)
KOKOMOE_INSTANTIATE(double)
#undef KOKOMOE_INSTANTIATE

}  // namespace kokomoe::detail

#endif
