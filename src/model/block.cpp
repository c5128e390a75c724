// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/model/block.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/parameters/products.hpp"

namespace kokomoe {

namespace {

// Lanes of the dropouts of a layer; 0 is the embedding's.
constexpr int attention_lane = 1, ffn_lane = 2, cross_lane = 3;

ResidualConfig residual(const BlockConfig& config, int lane) {
  return {config.norm, config.post_norm, config.dropout, config.layer, lane};
}

}  // namespace

template <class T>
Block<T>::Block(const BlockConfig& config, const Rotary<T>* rotary, ParameterStore<T>& store,
                const std::string& name)
    : attention_norm_(residual(config, attention_lane), config.moe.d_model, store,
                      name + ".attention_norm"),
      attention_(config.attention, rotary, store, name + ".attention"),
      ffn_norm_(residual(config, ffn_lane), config.moe.d_model, store, name + ".ffn_norm") {
  if (config.cross) {
    cross_norm_.emplace(residual(config, cross_lane), config.moe.d_model, store,
                        name + ".cross_norm");
    cross_.emplace(config.attention, store, name + ".cross");
  }
  if (config.sparse)
    moe_.emplace(config.moe, config.layer, store, name + ".moe");
  else
    ffn_.emplace(ExpertsConfig{1, config.moe.d_model, config.moe.d_hidden, config.moe.activation,
                               config.moe.bias, false, config.moe.output_scale, config.moe.kernels},
                 store, name + ".ffn");
}

template <class T>
void Block<T>::feed_forward(const StepContext& ctx, const Matrix<const T>& x, const Matrix<T>& y,
                            Saved& saved, const Vector<double>& statistics,
                            const Routing<T>* replay) const {
  ffn_norm_.forward(
      ctx, x, y, saved.ffn_norm, [&](const Matrix<const T>& in, const Matrix<T>& out) {
        if (moe_) {
          moe_->forward(ctx, in, out, saved.moe, statistics, replay);
          return;
        }
        saved.rows = {0, static_cast<int>(in.extent(0))};
        ffn_->forward(ctx.space, *ctx.saved, *ctx.scratch, in, saved.rows, Vector<const int>(), out,
                      saved.ffn, {ctx.layout_free, segments_of(ctx), ctx.round_kept});
      });
}

template <class T>
void Block<T>::forward(const StepContext& ctx, const Matrix<const T>& x, const Matrix<T>& y,
                       Saved& saved, const Vector<double>& statistics, const Routing<T>* replay,
                       const Memory<T>& memory) const {
  const auto rows = [&] { return ctx.saved->template matrix<T>(x.extent(0), x.extent(1)); };
  Matrix<T> middle = rows();
  attention_norm_.forward(ctx, x, middle, saved.attention_norm,
                          [&](const Matrix<const T>& in, const Matrix<T>& out) {
                            attention_.forward(ctx, in, out, saved.attention);
                          });
  if (cross_) {
    if (memory.source == nullptr)
      fail("Block::forward", "a block with cross-attention has no memory");
    const Matrix<T> crossed = rows();
    cross_norm_->forward(ctx, middle, crossed, saved.cross_norm,
                         [&](const Matrix<const T>& in, const Matrix<T>& out) {
                           cross_->forward(ctx, *memory.source, in, memory.rows, out, saved.cross);
                         });
    middle = crossed;
  }
  feed_forward(ctx, middle, y, saved, statistics, replay);
  forget_inputs(ctx, saved);
}

/// What is not kept is not to be read: whoever does so all the same meets an empty view.
template <class T>
void Block<T>::forget_inputs(const StepContext& ctx, Saved& saved) const {
  const Matrix<const T> none;
  if (attention_norm_.computes_again(ctx)) saved.attention.x = none;
  if (cross_ && cross_norm_->computes_again(ctx)) saved.cross.x = none;
  if (ffn_norm_.computes_again(ctx)) moe_ ? saved.moe.set_input(none) : saved.ffn.set_input(none);
}

template <class T>
void Block<T>::forward_cached(const StepContext& ctx, const Matrix<const T>& x, const Matrix<T>& y,
                              Saved& saved, const KeyValueCache<T>& cache,
                              const MemoryCache<T>& memory) const {
  const auto rows = [&] { return ctx.saved->template matrix<T>(x.extent(0), x.extent(1)); };
  Matrix<T> middle = rows();
  attention_norm_.forward(ctx, x, middle, saved.attention_norm,
                          [&](const Matrix<const T>& in, const Matrix<T>& out) {
                            attention_.forward_cached(ctx, in, out, cache);
                          });
  if (cross_) {
    const Matrix<T> crossed = rows();
    cross_norm_->forward(ctx, middle, crossed, saved.cross_norm,
                         [&](const Matrix<const T>& in, const Matrix<T>& out) {
                           cross_->forward_cached(ctx, in, memory.key_value, memory.begin,
                                                  memory.count, out);
                         });
    middle = crossed;
  }
  feed_forward(ctx, middle, y, saved, Vector<double>(), nullptr);
}

template <class T>
void Block<T>::backward(const StepContext& ctx, Saved& saved, const Matrix<T>& dx,
                        const Memory<T>& memory) const {
  using In = Matrix<const T>;
  ffn_norm_.backward(
      ctx, saved.ffn_norm, dx, [&](const In& in, const In& d_out, const Matrix<T>& d_in) {
        if (in.data() != nullptr) moe_ ? saved.moe.set_input(in) : saved.ffn.set_input(in);
        if (moe_)
          moe_->backward(ctx, saved.moe, d_out, d_in);
        else
          ffn_->backward(ctx.space, *ctx.scratch, saved.ffn, saved.rows, Vector<const int>(), d_out,
                         Vector<const T>(), d_in, Vector<T>());
      });
  if (cross_)
    cross_norm_->backward(
        ctx, saved.cross_norm, dx, [&](const In& in, const In& d_out, const Matrix<T>& d_in) {
          if (in.data() != nullptr) saved.cross.x = in;
          cross_->backward(ctx, *memory.source, saved.cross, d_out, d_in, memory.gradient);
        });
  attention_norm_.backward(ctx, saved.attention_norm, dx,
                           [&](const In& in, const In& d_out, const Matrix<T>& d_in) {
                             if (in.data() != nullptr) saved.attention.x = in;
                             attention_.backward(ctx, saved.attention, d_out, d_in);
                           });
}

template class Block<float>;
template class Block<double>;

}  // namespace kokomoe
