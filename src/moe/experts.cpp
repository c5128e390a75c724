// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/moe/experts.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/core/row_kernels.hpp"
#include "kokomoe/core/rows_of.hpp"
#include "moe/expert_blocks.hpp"

#include <cmath>

namespace kokomoe {

bool sums_factor(ExpertKernels kernels, bool layout_free) {
  return by_blocks(kernels, layout_free);
}

double factor_gradient_parts(int experts, int d_model, int d_hidden) {
  return std::ceil(static_cast<double>(d_hidden) / detail::backward_chunk_width) * experts *
         d_model;
}

namespace {

/// Row r's bias. (E, width) biases, expert_of_row empty = expert 0.
template <class T>
struct RowBias {
  Matrix<const T> bias;
  Vector<const int> expert_of_row;

  KOKKOS_INLINE_FUNCTION const T* at(int r) const {
    if (bias.extent(0) == 0) return nullptr;
    return &bias(expert_of_row.extent(0) == 0 ? 0 : expert_of_row(r), 0);
  }
};

/// x += b.
template <class T>
void add_bias(const ExecutionSpace& space, const RowBias<T>& bias, const Matrix<T>& x) {
  const int columns = static_cast<int>(x.extent(1));
  for_each_row(
      KOKOMOE_LABEL("moe::experts::bias"), space, static_cast<int>(x.extent(0)),
      KOKKOS_LAMBDA(const Row& row) {
        T* const y = &x(row.index(), 0);
        const T* const b = bias.at(row.index());
        row.each(columns, [&](const int j) { y[j] += b[j]; });
      });
}

/// x + b where there are biases. Chosen when compiled: a test inside the loop stops vectorisation.
template <bool biased, class T>
KOKKOS_INLINE_FUNCTION T plus_bias(const T* x, const T* b, int j) {
  if constexpr (biased)
    return x[j] + b[j];
  else
    return x[j];
}

template <class Act, bool biased, class T>
void activate(const ExecutionSpace& space, const Matrix<const T>& hidden, const RowBias<T>& bias,
              const Matrix<T>& out) {
  const int h = static_cast<int>(out.extent(1));
  for_each_row(
      KOKOMOE_LABEL("moe::experts::activate"), space, static_cast<int>(out.extent(0)),
      KOKKOS_LAMBDA(const Row& row) {
        const int r = row.index();
        const T* const x = &hidden(r, 0);
        const T* const b = bias.at(r);
        T* const y = &out(r, 0);
        row.each(h, [&](const int j) { y[j] = Act::value(plus_bias<biased>(x, b, j)); });
      });
}

template <bool biased, class T>
void activate_swiglu(const ExecutionSpace& space, const Matrix<const T>& hidden,
                     const RowBias<T>& bias, const Matrix<T>& out) {
  const int h = static_cast<int>(out.extent(1));
  for_each_row(
      KOKOMOE_LABEL("moe::experts::activate"), space, static_cast<int>(out.extent(0)),
      KOKKOS_LAMBDA(const Row& row) {
        const int r = row.index();
        const T* const x = &hidden(r, 0);
        const T* const b = bias.at(r);
        T* const y = &out(r, 0);
        row.each(h, [&](const int j) {
          const T g = plus_bias<biased>(x, b, j), u = plus_bias<biased>(x, b, h + j);
          y[j] = g * fast_sigmoid(g) * u;
        });
      });
}

/// One pass over a row of the hidden layer on the way back. In: d_active = dL/d(weighted act) W2
/// part, hidden. Out: active = weight act (for W2's gradient), d_hidden = weight dL/d(hidden),
/// and <d_active, act> for the weight's gradient.
template <class T>
struct BackwardRows {
  Matrix<const T> hidden;
  RowBias<T> bias;
  Vector<const T> row_weight;
  Matrix<const T> d_active;
  Matrix<T> active;
  Matrix<T> d_hidden;
  Vector<T> dot;
};

template <class Act, bool biased, class T>
void backward_rows(const ExecutionSpace& space, const BackwardRows<T>& v) {
  const int h = static_cast<int>(v.active.extent(1));
  for_each_row(
      KOKOMOE_LABEL("moe::experts::activate_backward"), space, static_cast<int>(v.active.extent(0)),
      KOKKOS_LAMBDA(const Row& row) {
        const int r = row.index();
        const T* const x = &v.hidden(r, 0);
        const T* const b = v.bias.at(r);
        const T* const da = &v.d_active(r, 0);
        T* const a = &v.active(r, 0);
        T* const dx = &v.d_hidden(r, 0);
        const T w = v.row_weight.extent(0) == 0 ? T(1) : v.row_weight(r);
        const T dot = row.template sum<T>(h, [&](const int j) {
          const T z = plus_bias<biased>(x, b, j);
          const T value = Act::value(z);
          const T d = da[j];
          a[j] = w * value;
          dx[j] = w * d * Act::derivative(z);
          return d * value;
        });
        if (v.dot.extent(0) != 0) row.once([&]() { v.dot(r) = dot; });
      });
}

template <bool biased, class T>
void backward_rows_swiglu(const ExecutionSpace& space, const BackwardRows<T>& v) {
  const int h = static_cast<int>(v.active.extent(1));
  for_each_row(
      KOKOMOE_LABEL("moe::experts::activate_backward"), space, static_cast<int>(v.active.extent(0)),
      KOKKOS_LAMBDA(const Row& row) {
        const int r = row.index();
        const T* const x = &v.hidden(r, 0);
        const T* const b = v.bias.at(r);
        const T* const da = &v.d_active(r, 0);
        T* const a = &v.active(r, 0);
        T* const dx = &v.d_hidden(r, 0);
        const T w = v.row_weight.extent(0) == 0 ? T(1) : v.row_weight(r);
        const T dot = row.template sum<T>(h, [&](const int j) {
          const T g = plus_bias<biased>(x, b, j), u = plus_bias<biased>(x, b, h + j);
          const T sigmoid = fast_sigmoid(g);
          const T silu = g * sigmoid;
          const T d = da[j];
          a[j] = w * silu * u;
          dx[j] = w * d * u * (sigmoid + silu * (T(1) - sigmoid));
          dx[h + j] = w * d * silu;
          return d * silu * u;
        });
        if (v.dot.extent(0) != 0) row.once([&]() { v.dot(r) = dot; });
      });
}

template <bool biased, class T>
void activate(const ExecutionSpace& space, Activation activation, const Matrix<const T>& hidden,
              const RowBias<T>& bias, const Matrix<T>& out) {
  switch (activation) {
    case Activation::relu:
      return activate<Relu, biased, T>(space, hidden, bias, out);
    case Activation::gelu:
      return activate<Gelu, biased, T>(space, hidden, bias, out);
    case Activation::swiglu:
      return activate_swiglu<biased, T>(space, hidden, bias, out);
  }
}

template <bool biased, class T>
void backward_rows(const ExecutionSpace& space, Activation activation,
                   const BackwardRows<T>& views) {
  switch (activation) {
    case Activation::relu:
      return backward_rows<Relu, biased, T>(space, views);
    case Activation::gelu:
      return backward_rows<Gelu, biased, T>(space, views);
    case Activation::swiglu:
      return backward_rows_swiglu<biased, T>(space, views);
  }
}

}  // namespace

template <class T>
Experts<T>::Experts(const ExpertsConfig& config, ParameterStore<T>& store, const std::string& name)
    : config_(config), store_(&store) {
  if (config.experts < 1 || config.d_model < 1 || config.d_hidden < 1)
    fail(name, "experts " + std::to_string(config.experts) + ", d_model " +
                   std::to_string(config.d_model) + ", d_hidden " +
                   std::to_string(config.d_hidden) + ": each must be at least 1");
  const auto experts = static_cast<std::size_t>(config.experts);
  const auto d = static_cast<std::size_t>(config.d_model);
  const auto h = static_cast<std::size_t>(config.d_hidden);
  const auto width = static_cast<std::size_t>(first_width(config.activation, config.d_hidden));
  const auto normal = [](std::size_t inputs, double scale) {
    return Initializer::normal(scale / std::sqrt(static_cast<double>(inputs)));
  };
  const auto add = [&](const char* suffix, std::vector<std::size_t> shape, Initializer init,
                       bool decay, std::vector<std::string> axes) {
    return store.add({name + suffix, std::move(shape), init, decay, config.sharded, false,
                      std::move(axes), decay && config.round_weights});
  };
  w1_ = add(".w1", {experts, width, d}, normal(d, 1), true, {"expert", "hidden", "channel"});
  w2_ = add(".w2", {experts, d, h}, normal(h, config.output_scale), true,
            {"expert", "channel", "hidden"});
  if (config.bias) {
    b1_ = add(".b1", {experts, width}, Initializer::constant(0), false, {"expert", "hidden"});
    b2_ = add(".b2", {experts, d}, Initializer::constant(0), false, {"expert", "channel"});
  }
}

namespace {

/// Parameters of experts [first, end) of the stacked ones.
template <class T>
Matrix<T> experts_of(const Matrix<T>& stacked, std::size_t experts, int first, int end) {
  if (stacked.data() == nullptr) return stacked;
  const std::size_t each = stacked.extent(0) / experts;
  return rows_of(stacked, each * static_cast<std::size_t>(first),
                 each * static_cast<std::size_t>(end));
}

}  // namespace

#if KOKOMOE_EXPERT_BLOCKS
template <class T>
detail::ExpertWeights<T> Experts<T>::weights(std::size_t local, Part part) const {
  const auto of = [&](ParameterHandle handle) {
    return handle.valid()
               ? experts_of(Matrix<const T>(store_->value(handle)), local, part.first, part.end)
               : Matrix<const T>();
  };
  const auto rounded = [&](ParameterHandle handle) {
    return config_.round_weights
               ? experts_of(store_->rounded_value(handle), local, part.first, part.end)
               : Matrix<const Bfloat16>();
  };
  return {{of(w1_), of(b1_), of(w2_), of(b2_)}, rounded(w1_), rounded(w2_)};
}
#endif

template <class T>
void Experts<T>::begin(Arena& saved_arena, const PickedRows<T>& rows, const RowArithmetic& how,
                       Saved& saved) const {
  require_shape("Experts::forward", "rows", rows.from, rows.from.extent(0),
                static_cast<std::size_t>(config_.d_model));
  if (config_.round_weights && !by_blocks(config_.kernels, how.layout_free))
    fail("Experts::forward", "weights in bfloat16 are read by blocks of rows alone");
  saved.rows = rows;
  saved.how = how;
  saved.hidden = KeptRows<T>(
      saved_arena, rows.rows(),
      static_cast<std::size_t>(first_width(config_.activation, config_.d_hidden)), how.round_kept);
}

template <class T>
void Experts<T>::forward_part(const ExecutionSpace& space, Arena& scratch, Part part,
                              std::span<const int> offsets, const Vector<const int>& expert_of_row,
                              const Matrix<T>& out, const Saved& saved) const {
  const Region region(KOKOMOE_LABEL("moe::experts"));
  require_shape("Experts::forward", "out", out, saved.rows.rows(), saved.rows.columns());
  if (part.first == part.end) return;
  const std::size_t local = offsets.size() - 1;
  const auto begin = static_cast<std::size_t>(offsets[static_cast<std::size_t>(part.first)]);
  const auto end = static_cast<std::size_t>(offsets[static_cast<std::size_t>(part.end)]);
  const std::size_t n = end - begin;
  const auto groups = offsets.subspan(static_cast<std::size_t>(part.first),
                                      static_cast<std::size_t>(part.end - part.first) + 1);
  ArenaScope scope(scratch);
  const auto h = static_cast<std::size_t>(config_.d_hidden);
  const auto parameter = [&](ParameterHandle handle) {
    return experts_of(Matrix<const T>(store_->value(handle)), local, part.first, part.end);
  };
  const KeptRows<T> kept = saved.hidden.part(begin, end);
  const Matrix<T> out_rows = rows_of(out, begin, end);
#if KOKOMOE_EXPERT_BLOCKS
  if (by_blocks(config_.kernels, saved.how.layout_free)) {
    detail::forward_blocks<T>(space, scratch, config_.activation, weights(local, part), groups,
                              saved.rows.part(begin, end), kept, out_rows);
    return;
  }
#endif
  const Matrix<T> hidden = kept.begin(scratch), active = scratch.matrix<T>(n, h);
  multiply_groups<T>(space, scratch, saved.how, Transpose::yes,
                     side_by_side(space, scratch, saved.rows.part(begin, end)), parameter(w1_),
                     hidden, groups);
  const Vector<const int> expert = rows_of(expert_of_row, begin, end);
  // Biases are looked up by local expert, of which a part holds some: all of them, then. A number
  // that the bias makes small must be rounded with it: the rounding would not be small beside it
  // else.
  const bool early = b1_.valid() && kept.rounded();
  if (early) add_bias<T>(space, {store_->value(b1_), expert}, hidden);
  kept.keep(space, hidden);
  if (b1_.valid() && !early)
    activate<true, T>(space, config_.activation, hidden, {store_->value(b1_), expert}, active);
  else
    activate<false, T>(space, config_.activation, hidden, {Matrix<const T>(), expert}, active);
  multiply_groups<T>(space, scratch, saved.how, Transpose::yes, active, parameter(w2_), out_rows,
                     groups);
  if (b2_.valid()) add_bias<T>(space, {store_->value(b2_), expert}, out_rows);
}

template <class T>
void Experts<T>::forward(const ExecutionSpace& space, Arena& saved_arena, Arena& scratch,
                         const PickedRows<T>& rows, std::span<const int> offsets,
                         const Vector<const int>& expert_of_row, const Matrix<T>& out, Saved& saved,
                         const RowArithmetic& how) const {
  begin(saved_arena, rows, how, saved);
  forward_part(space, scratch, {0, static_cast<int>(offsets.size()) - 1}, offsets, expert_of_row,
               out, saved);
}

template <class T>
typename Experts<T>::Writes Experts<T>::begin_backward() const {
  const auto adds = [&](ParameterHandle handle) {
    if (!handle.valid()) return false;
    return store_->sums_exactly() ? store_->adds_exactly(handle)
                                  : store_->gradient_beta(handle) != T(0);
  };
  return {adds(w1_), adds(b1_), adds(w2_), adds(b2_)};
}

template <class T>
void Experts<T>::backward_part(const ExecutionSpace& space, Arena& scratch, Part part,
                               const Writes& adds, const Saved& saved, std::span<const int> offsets,
                               const Vector<const int>& expert_of_row, const PickedRows<T>& d_out,
                               const Vector<const T>& row_weight, const Matrix<T>& d_rows,
                               const Vector<T>& d_row_weight, const Vector<T>& d_factor) const {
  const Region region(KOKOMOE_LABEL("moe::experts_backward"));
  require_shape("Experts::backward", "d_out", d_out.from, d_out.from.extent(0),
                saved.rows.columns());
  if (d_out.rows() != saved.rows.rows())
    fail("Experts::backward", "d_out has " + std::to_string(d_out.rows()) + " rows, forward had " +
                                  std::to_string(saved.rows.rows()));
  require_shape("Experts::backward", "d_rows", d_rows, saved.rows.rows(), saved.rows.columns());
  if (d_factor.extent(0) != 0 && !sums_factor(saved.how.layout_free))
    fail("Experts::backward", "d_factor comes with blocks of rows alone");
  if (part.first == part.end) return;
  const std::size_t local = offsets.size() - 1;
  const auto begin = static_cast<std::size_t>(offsets[static_cast<std::size_t>(part.first)]);
  const auto end = static_cast<std::size_t>(offsets[static_cast<std::size_t>(part.end)]);
  const std::size_t n = end - begin;
  const auto groups = offsets.subspan(static_cast<std::size_t>(part.first),
                                      static_cast<std::size_t>(part.end - part.first) + 1);
  ArenaScope scope(scratch);
  const auto scratch_rows = [&](std::size_t width) { return scratch.matrix<T>(n, width); };
  const auto parameter = [&](ParameterHandle handle) {
    return experts_of(Matrix<const T>(store_->value(handle)), local, part.first, part.end);
  };
  const auto gradient = [&](ParameterHandle handle, bool add) {
    return ExpertGradients{handle, part.first, part.end, add};
  };
#if KOKOMOE_EXPERT_BLOCKS
  if (by_blocks(config_.kernels, saved.how.layout_free)) {
    const auto of_part = [&](ParameterHandle handle) {
      return handle.valid() ? experts_of(store_->gradient(handle), local, part.first, part.end)
                            : Matrix<T>();
    };
    detail::backward_blocks<T>(space, scratch, config_.activation, weights(local, part), groups,
                               saved.rows.part(begin, end), saved.hidden.part(begin, end),
                               d_out.part(begin, end), rows_of(row_weight, begin, end),
                               rows_of(d_rows, begin, end), rows_of(d_row_weight, begin, end),
                               d_factor, {of_part(w1_), of_part(b1_), of_part(w2_), of_part(b2_)},
                               {adds.w1, adds.b1, adds.w2, adds.b2});
    return;
  }
#endif
  const auto h = static_cast<std::size_t>(config_.d_hidden);
  const Matrix<T> d_active = scratch_rows(h);
  const Matrix<T> active = scratch_rows(h);
  // One-argument activations turn d_active into d_hidden in place; swiglu needs twice the width.
  const Matrix<T> d_hidden =
      config_.activation == Activation::swiglu ? scratch_rows(saved.hidden.columns()) : d_active;
  const Matrix<const T> d_out_rows = side_by_side(space, scratch, d_out.part(begin, end));
  multiply_groups<T>(space, scratch, saved.how, Transpose::no, d_out_rows, parameter(w2_), d_active,
                     groups);
  const Vector<const int> expert = rows_of(expert_of_row, begin, end);
  const Vector<T> dot = rows_of(d_row_weight, begin, end);
  const BackwardRows<T> views{
      saved.hidden.part(begin, end).read(space, scratch),
      {b1_.valid() ? Matrix<const T>(store_->value(b1_)) : Matrix<const T>(), expert},
      rows_of(row_weight, begin, end),
      d_active,
      active,
      d_hidden,
      dot};
  if (b1_.valid() && !saved.hidden.rounded())
    backward_rows<true, T>(space, config_.activation, views);
  else
    backward_rows<false, T>(space, config_.activation, views);
  add_weight_gradients<T>(space, scratch, saved.how, d_out_rows, active, groups, *store_,
                          gradient(w2_, adds.w2));
  add_weight_gradients<T>(space, scratch, saved.how, d_hidden,
                          side_by_side(space, scratch, saved.rows.part(begin, end)), groups,
                          *store_, gradient(w1_, adds.w1));
  multiply_groups<T>(space, scratch, saved.how, Transpose::no, d_hidden, parameter(w1_),
                     rows_of(d_rows, begin, end), groups);
  if (!b1_.valid()) return;
  add_bias_gradients<T>(space, scratch, saved.how, d_hidden, Vector<const T>(), groups, *store_,
                        gradient(b1_, adds.b1));
  add_bias_gradients<T>(space, scratch, saved.how, d_out_rows, rows_of(row_weight, begin, end),
                        groups, *store_, gradient(b2_, adds.b2));
  if (dot.extent(0) == 0) return;
  // <d_out, b2> completes <d_out, E(x)>: the hidden layer's share is there already.
  const RowBias<T> b2{store_->value(b2_), expert};
  const int columns = config_.d_model;
  for_each_row(
      KOKOMOE_LABEL("moe::experts::bias_dot"), space, static_cast<int>(n),
      KOKKOS_LAMBDA(const Row& row) {
        const T* const g = &d_out_rows(row.index(), 0);
        const T* const b = b2.at(row.index());
        const T sum = row.template sum<T>(columns, [&](const int j) { return g[j] * b[j]; });
        row.once([&]() { dot(row.index()) += sum; });
      });
}

template <class T>
void Experts<T>::backward(const ExecutionSpace& space, Arena& scratch, const Saved& saved,
                          std::span<const int> offsets, const Vector<const int>& expert_of_row,
                          const PickedRows<T>& d_out, const Vector<const T>& row_weight,
                          const Matrix<T>& d_rows, const Vector<T>& d_row_weight,
                          const Vector<T>& d_factor) const {
  backward_part(space, scratch, {0, static_cast<int>(offsets.size()) - 1}, begin_backward(), saved,
                offsets, expert_of_row, d_out, row_weight, d_rows, d_row_weight, d_factor);
}

template class Experts<float>;
template class Experts<double>;

}  // namespace kokomoe
