// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/moe/auxiliary_loss.hpp"
#include "kokomoe/moe/moe_layer.hpp"
#include "kokomoe/nn/optimizer.hpp"
#include "kokomoe/parallel/expert_exchange.hpp"
#include "support/packed_step.hpp"

#include <memory>
#include <numeric>
#include <string>
#include <vector>

namespace kokomoe::test {

/// A batch of sequences, a part of which lies on each rank: rank r of `cuts` holds sequences
/// [cuts[r], cuts[r + 1]).
struct LayerBatch {
  std::vector<int> lengths;
  std::vector<int> cuts;

  int tokens(int first, int end) const {
    return std::accumulate(lengths.begin() + first, lengths.begin() + end, 0);
  }
  int first_token(int rank) const { return tokens(0, cuts[static_cast<std::size_t>(rank)]); }
  int own_tokens(int rank) const {
    return tokens(cuts[static_cast<std::size_t>(rank)], cuts[static_cast<std::size_t>(rank) + 1]);
  }
};

/// One MoE layer on one rank of a layout, on its part of a batch whose numbers depend on neither.
template <class T>
class LayerOnRank {
 public:
  LayerOnRank(const MoeConfig& config, const LayerBatch& batch, const Communicator& world,
              const ParallelOptions& options)
      : layout(world, options.expert_ranks),
        exchange(layout.experts, options),
        store(layout.experts.rank(), layout.experts.size()),
        layer(config, 2, store, "moe"),
        first_(batch.first_token(world.rank())),
        tokens_(batch.own_tokens(world.rank())),
        width_(static_cast<std::size_t>(config.d_model)) {
    std::vector<int> offsets{0}, position;
    std::vector<std::uint32_t> index;
    std::vector<double> losses;
    for (int s = batch.cuts[static_cast<std::size_t>(world.rank())];
         s < batch.cuts[static_cast<std::size_t>(world.rank()) + 1]; ++s) {
      for (int i = 0; i < batch.lengths[static_cast<std::size_t>(s)]; ++i) {
        position.push_back(i);
        index.push_back(static_cast<std::uint32_t>(5 * s + 1));
      }
      offsets.push_back(static_cast<int>(position.size()));
      losses.push_back(1.5 + s % 3);
    }
    const int all = batch.tokens(0, static_cast<int>(batch.lengths.size()));
    step = std::make_unique<PackedStep>(own_rows(token_ids(all, config.vocabulary), 1),
                                        std::vector<int>(), offsets, index, position);
    step->ctx.sequence_loss = device_vector(losses);
    step->ctx.loss_scale = 1.0 / all;
    step->ctx.communicator = &layout.world;
    step->ctx.exchange = exchange.sharded() ? &exchange : nullptr;
    step->ctx.update_tokens = all;
    statistics = Vector<double>(
        "statistics", static_cast<std::size_t>(LoadStatistics::width(config.experts)));
    store.allocate(ExecutionSpace(), 5);
    for (const auto& entry : store.entries()) {
      if (entry.spec.state) continue;
      std::size_t size = 1;
      for (const std::size_t extent : entry.spec.shape) size *= extent;
      Draw draw(name_hash(entry.spec.name.c_str()));
      fill_device(store.value_vector(store.find(entry.spec.name)),
                  own_part(entry, draw.template many<T>(size, 0.8)));
    }
    store.round_values(ExecutionSpace());
    x = part_of(Draw(1).many<T>(static_cast<std::size_t>(all) * width_));
    dy = part_of(Draw(2).many<T>(static_cast<std::size_t>(all) * width_));
    y = Matrix<T>("y", static_cast<std::size_t>(tokens_), width_);
    dx = Matrix<T>("dx", static_cast<std::size_t>(tokens_), width_);
  }

  /// Forward, backward and the sums over ranks; the gradient norm.
  double run(const Routing<T>* replay = nullptr) {
    step->reset();
    store.begin_update();
    layer.forward(step->ctx, x, y, saved, statistics, replay);
    layer.backward(step->ctx, saved, dy, dx);
    store.finish_gradients(step->ctx.space);
    layout.world.all_reduce_sum(step->ctx.space, statistics);
    reduce_gradients<T>(step->ctx.space, layout, store);
    return gradient_norm<T>(step->ctx.space, step->scratch, store, layout.experts);
  }

  /// This rank's rows of something (all tokens, columns).
  template <class U>
  std::vector<U> own_rows(const std::vector<U>& all, std::size_t columns) const {
    const auto begin = all.begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(first_) * columns);
    return {begin, begin + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(tokens_) * columns)};
  }
  /// This rank's experts of a whole tensor; all of one that is not sharded.
  std::vector<T> own_part(const typename ParameterStore<T>::Entry& entry,
                          const std::vector<T>& all) const {
    if (entry.size == all.size()) return all;
    const std::size_t each = all.size() / entry.spec.shape[0];
    const ExpertRange own = store.experts(static_cast<int>(entry.spec.shape[0]));
    const auto at = [&](int e) {
      return all.begin() + static_cast<std::ptrdiff_t>(each * static_cast<std::size_t>(e));
    };
    return {at(own.begin), at(own.end)};
  }

  ExpertLayout layout;
  ExpertExchange exchange;
  ParameterStore<T> store;
  MoeLayer<T> layer;
  std::unique_ptr<PackedStep> step;
  Matrix<T> x, dy, y, dx;
  typename MoeLayer<T>::Saved saved;
  Vector<double> statistics;  ///< of the last run, over all ranks

 private:
  static std::vector<int> token_ids(int tokens, int vocabulary) {
    std::vector<int> ids;
    for (int t = 0; t < tokens; ++t) ids.push_back(vocabulary > 0 ? t * t % vocabulary : 0);
    return ids;
  }
  Matrix<T> part_of(const std::vector<T>& all) const {
    return device_matrix(static_cast<std::size_t>(tokens_), width_, own_rows(all, width_));
  }

  int first_, tokens_;
  std::size_t width_;
};

}  // namespace kokomoe::test
