// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/model/block.hpp"

#include "kokomoe/core/row_kernels.hpp"
#include "kokomoe/nn/dropout.hpp"
#include "kokomoe/parameters/products.hpp"

namespace kokomoe {

namespace {

// Lanes of the dropouts of a layer; 0 is the embedding's.
constexpr int attention_lane = 1, ffn_lane = 2;

template <class T>
void copy_rows(const ExecutionSpace& space, const Matrix<const T>& from, const Matrix<T>& to) {
  Kokkos::deep_copy(space, to, from);
}

}  // namespace

template <class T>
Block<T>::Block(const BlockConfig& config, const Rotary<T>* rotary, ParameterStore<T>& store,
                const std::string& name)
    : config_(config),
      attention_norm_(config.norm, config.moe.d_model, store, name + ".attention_norm"),
      attention_(config.attention, rotary, store, name + ".attention"),
      ffn_norm_(config.norm, config.moe.d_model, store, name + ".ffn_norm") {
  if (config.sparse)
    moe_.emplace(config.moe, config.layer, store, name + ".moe");
  else
    ffn_.emplace(ExpertsConfig{1, config.moe.d_model, config.moe.d_hidden, config.moe.activation,
                               config.moe.bias, false, config.moe.output_scale,
                               config.moe.kernels},
                 store, name + ".ffn");
}

template <class T>
void Block<T>::feed_forward(const StepContext& ctx, const Matrix<T>& y, Saved& saved,
                            const Vector<double>& statistics, const Routing<T>* replay) const {
  const Matrix<T> normed = ctx.saved->template matrix<T>(y.extent(0), y.extent(1));
  ffn_norm_.forward(ctx, saved.ffn_norm.x, normed, saved.ffn_norm);
  ArenaScope scope(*ctx.scratch);
  const Matrix<T> out = ctx.scratch->template matrix<T>(y.extent(0), y.extent(1));
  if (moe_) {
    moe_->forward(ctx, normed, out, saved.moe, statistics, replay);
  } else {
    saved.rows = {0, static_cast<int>(y.extent(0))};
    ffn_->forward(ctx.space, *ctx.saved, *ctx.scratch, normed, saved.rows, Vector<const int>(),
                  out, saved.ffn, {ctx.layout_free, segments_of(ctx)});
  }
  copy_rows<T>(ctx.space, saved.ffn_norm.x, y);
  dropout<T>(ctx, config_.dropout, config_.layer, ffn_lane, out, y, true);
}

template <class T>
void Block<T>::forward(const StepContext& ctx, const Matrix<const T>& x, const Matrix<T>& y,
                       Saved& saved, const Vector<double>& statistics,
                       const Routing<T>* replay) const {
  const std::size_t tokens = x.extent(0), d = x.extent(1);
  const Matrix<T> normed = ctx.saved->template matrix<T>(tokens, d);
  const Matrix<T> middle = ctx.saved->template matrix<T>(tokens, d);
  attention_norm_.forward(ctx, x, normed, saved.attention_norm);
  {
    ArenaScope scope(*ctx.scratch);
    const Matrix<T> out = ctx.scratch->template matrix<T>(tokens, d);
    attention_.forward(ctx, normed, out, saved.attention);
    copy_rows<T>(ctx.space, x, middle);
    dropout<T>(ctx, config_.dropout, config_.layer, attention_lane, out, middle, true);
  }
  saved.ffn_norm.x = middle;
  feed_forward(ctx, y, saved, statistics, replay);
}

template <class T>
void Block<T>::forward_cached(const StepContext& ctx, const Matrix<const T>& x,
                              const Matrix<T>& y, Saved& saved,
                              const KeyValueCache<T>& cache) const {
  const std::size_t tokens = x.extent(0), d = x.extent(1);
  const Matrix<T> normed = ctx.saved->template matrix<T>(tokens, d);
  const Matrix<T> middle = ctx.saved->template matrix<T>(tokens, d);
  attention_norm_.forward(ctx, x, normed, saved.attention_norm);
  attention_.forward_cached(ctx, normed, middle, cache);
  dropout<T>(ctx, 0, config_.layer, attention_lane, x, middle, true);
  saved.ffn_norm.x = middle;
  feed_forward(ctx, y, saved, Vector<double>(), nullptr);
}

template <class T>
void Block<T>::backward(const StepContext& ctx, Saved& saved, const Matrix<T>& dx) const {
  ArenaScope scope(*ctx.scratch);
  const Matrix<T> dropped = ctx.scratch->template matrix<T>(dx.extent(0), dx.extent(1));
  const Matrix<T> d_normed = ctx.scratch->template matrix<T>(dx.extent(0), dx.extent(1));
  const bool drops = config_.dropout > 0 && ctx.training;

  if (drops) dropout<T>(ctx, config_.dropout, config_.layer, ffn_lane, dx, dropped, false);
  const Matrix<const T> d_ffn = drops ? dropped : dx;
  if (moe_)
    moe_->backward(ctx, saved.moe, d_ffn, d_normed);
  else
    ffn_->backward(ctx.space, *ctx.scratch, saved.ffn, saved.rows, Vector<const int>(), d_ffn,
                   Vector<const T>(), d_normed, Vector<T>());
  ffn_norm_.backward(ctx, saved.ffn_norm, d_normed, dx);

  if (drops) dropout<T>(ctx, config_.dropout, config_.layer, attention_lane, dx, dropped, false);
  attention_.backward(ctx, saved.attention, drops ? dropped : dx, d_normed);
  attention_norm_.backward(ctx, saved.attention_norm, d_normed, dx);
}

template class Block<float>;
template class Block<double>;

}  // namespace kokomoe
