// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/model/block_stack.hpp"

#include "kokomoe/core/error.hpp"

namespace kokomoe {

template <class T>
BlockStack<T>::BlockStack(const BlockStackConfig& config, const Rotary<T>* rotary,
                          ParameterStore<T>& store, const std::string& name)
    : config_(config) {
  const int d = config.moe.d_model;
  if (config.layers < 1 || config.first_layer + config.layers > 255)
    throw InputError(name + ": layers must lie in [1, " + std::to_string(255 - config.first_layer) +
                     "], not " + std::to_string(config.layers));
  if (config.heads < 1 || d % config.heads != 0)
    throw InputError(std::to_string(config.heads) + " heads do not divide d_model " +
                     std::to_string(d));
  blocks_.reserve(static_cast<std::size_t>(config.layers));
  for (int i = 0; i < config.layers; ++i) {
    BlockConfig block;
    block.layer = config.first_layer + i;
    block.attention = {
        d,           config.heads, config.bias, config.attention_dropout, config.residual_scale,
        block.layer, config.causal};
    block.norm = config.norm;
    block.post_norm = config.post_norm;
    block.cross = config.cross;
    block.dropout = config.dropout;
    block.sparse = config.moe_every > 0 && i % config.moe_every == 0;
    block.moe = config.moe;
    block.moe.output_scale = config.residual_scale;
    block.moe.causal = config.causal;
    blocks_.emplace_back(block, rotary, store, name + "." + std::to_string(i));
  }
}

template <class T>
int BlockStack<T>::moe_layers() const {
  int count = 0;
  for (const Block<T>& block : blocks_) count += block.moe() != nullptr ? 1 : 0;
  return count;
}

template <class T>
Matrix<T> BlockStack<T>::forward(const StepContext& ctx, const Matrix<T>& x, Saved& saved,
                                 const Matrix<double>& statistics, const Routing<T>* replay,
                                 const Memory<T>& memory) const {
  saved.resize(blocks_.size());
  Matrix<T> rows = x;
  std::size_t layer = 0;
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    const Matrix<T> y = ctx.saved->template matrix<T>(x.extent(0), x.extent(1));
    Vector<double> sums;
    const Routing<T>* routing = nullptr;
    if (blocks_[i].moe() != nullptr) {
      if (statistics.extent(0) != 0)
        sums =
            Vector<double>(statistics.data() + layer * statistics.extent(1), statistics.extent(1));
      if (replay != nullptr && (replay[layer].tokens > 0 || x.extent(0) == 0))
        routing = &replay[layer];
      ++layer;
    }
    blocks_[i].forward(ctx, rows, y, saved[i], sums, routing, memory);
    rows = y;
  }
  return rows;
}

template <class T>
Matrix<T> BlockStack<T>::forward_cached(const StepContext& ctx, const Matrix<T>& x, Saved& saved,
                                        const std::vector<KeyValueCache<T>>& caches,
                                        const std::vector<MemoryCache<T>>& memory) const {
  saved.resize(blocks_.size());
  Matrix<T> rows = x;
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    const Matrix<T> y = ctx.saved->template matrix<T>(x.extent(0), x.extent(1));
    blocks_[i].forward_cached(ctx, rows, y, saved[i], caches[i],
                              memory.empty() ? MemoryCache<T>() : memory[i]);
    rows = y;
  }
  return rows;
}

template <class T>
void BlockStack<T>::backward(const StepContext& ctx, Saved& saved, const Matrix<T>& dx,
                             const Memory<T>& memory) const {
  for (std::size_t i = blocks_.size(); i-- > 0;) blocks_[i].backward(ctx, saved[i], dx, memory);
}

template <class T>
std::vector<KeyValueCache<T>> BlockStack<T>::make_caches(int sequences, int length) const {
  std::vector<KeyValueCache<T>> caches(blocks_.size());
  for (KeyValueCache<T>& cache : caches) {
    cache.length = length;
    cache.rows = Matrix<T>("kokomoe::model::cache",
                           static_cast<std::size_t>(sequences) * static_cast<std::size_t>(length),
                           2 * static_cast<std::size_t>(config_.moe.d_model));
  }
  return caches;
}

template class BlockStack<float>;
template class BlockStack<double>;

}  // namespace kokomoe
