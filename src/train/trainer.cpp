// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/train/trainer.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/parallel/pulse.hpp"
#include "train/non_finite.hpp"

#include <algorithm>
#include <cmath>
#include <span>

namespace kokomoe {

namespace {

/// counts(l E + e) = assignments of layer l to expert e, over all micro-batches.
void sum_counts(const ExecutionSpace& space, const Vector<const double>& statistics,
                int micro_batches, int loss_width, int layers, int experts,
                const Vector<double>& counts) {
  const int layer_width = LoadStatistics::width(experts);
  const int width = loss_width + layers * layer_width;
  Kokkos::parallel_for(
      KOKOMOE_LABEL("train::sum_counts"),
      Kokkos::RangePolicy<ExecutionSpace>(space, 0, layers * experts), KOKKOS_LAMBDA(const int i) {
        const int place = loss_width + i / experts * layer_width + i % experts;
        double sum = 0;
        for (int a = 0; a < micro_batches; ++a) sum += statistics(a * width + place);
        counts(i) = sum;
      });
}

}  // namespace

template <class T>
Trainer<T>::Trainer(const TrainConfig& config, const Communicator& communicator)
    : train_(config),
      layout_(communicator, config.parallel.expert_ranks),
      communicator_(&communicator),
      exchange_(layout_.experts.size() > 1
                    ? std::make_unique<ExpertExchange>(layout_.experts, config.parallel)
                    : nullptr),
      store_(layout_.experts.rank(), layout_.experts.size()),
      saved_("kokomoe::train::saved"),
      scratch_("kokomoe::train::scratch") {}

template <class T>
void Trainer<T>::set_count(const ModelCount& count) {
  count_ = count;
  for (std::size_t p = 0; p < parts_.size(); ++p) parts_[p].token_flops = count.stack_flops[p];
}

template <class T>
void Trainer<T>::allocate(std::vector<Part> parts, const MoeConfig& moe, int loss_width) {
  parts_ = std::move(parts);
  moe_ = moe;
  loss_width_ = loss_width;
  for (const std::string& pattern : train_.freeze)
    if (store_.freeze(pattern) == 0)
      throw InputError("train/freeze: no tensor matches \"" + pattern + "\"");
  if (train_.layout_free) store_.sum_exactly();
  store_.allocate(space_, train_.seed);
  const auto layers = static_cast<std::size_t>(moe_layers());
  const std::size_t width = static_cast<std::size_t>(loss_width) +
                            layers * static_cast<std::size_t>(LoadStatistics::width(moe.experts));
  const auto micro_batches = static_cast<std::size_t>(train_.accumulate);
  statistics_ = Vector<double>("kokomoe::train::statistics", width * micro_batches);
  host_statistics_ = Kokkos::create_mirror(statistics_);
  counts_ =
      Vector<double>("kokomoe::train::counts", layers * static_cast<std::size_t>(moe.experts));
  for_each_moe_layer([&](int, int, MoeLayer<T>& layer, const Part&) {
    if (layer.router().estimator().needs_sequence_loss) needs_sequence_loss_ = true;
  });
  report_.load.resize(layers);
  micro_tokens_.resize(micro_batches * parts_.size());
}

template <class T>
template <class Work>
void Trainer<T>::for_each_moe_layer(const Work& work) {
  int layer = 0, block_number = 0;
  for (const Part& part : parts_)
    for (Block<T>& block : part.stack->blocks()) {
      if (block.moe() != nullptr) work(layer++, block_number, *block.moe(), part);
      ++block_number;
    }
}

template <class T>
int Trainer<T>::layers() const {
  std::size_t sum = 0;
  for (const Part& part : parts_) sum += part.stack->blocks().size();
  return static_cast<int>(sum);
}

template <class T>
int Trainer<T>::moe_layers() const {
  int sum = 0;
  for (const Part& part : parts_) sum += part.stack->moe_layers();
  return sum;
}

template <class T>
StepContext Trainer<T>::bare_context(bool training, std::int64_t step) {
  mark_progress();
  // All at once: a StepContext made empty makes a space of its own, which asks for memory.
  return {.space = space_,
          .communicator = communicator_,
          .saved = &saved_,
          .scratch = &scratch_,
          .tokens = {},
          .seed = train_.seed,
          .step = static_cast<std::uint64_t>(step),
          .replica = 0,
          .training = training,
          .update_tokens = 0,
          .loss_scale = 0,
          .sequence_loss = {},
          .exchange = exchange_.get(),
          .layout_free = train_.layout_free,
          .round_kept = train_.round_kept};
}

template <class T>
StepContext Trainer<T>::context(const HostBatch& batch, DeviceBatch& device, bool training,
                                std::int64_t step) {
  StepContext ctx = bare_context(training, step);
  ctx.tokens = to_device(space_, batch, device);
  ctx.update_tokens = static_cast<double>(batch.update_tokens);
  ctx.loss_scale = 1.0 / static_cast<double>(std::max<std::int64_t>(1, batch.global_scored));
  return ctx;
}

template <class T>
void Trainer<T>::reset_arenas() {
  saved_.reset();
  scratch_.reset();
}

template <class T>
Vector<double> Trainer<T>::evaluation_sums(int width) const {
  return Vector<double>(statistics_.data(), static_cast<std::size_t>(width));
}

template <class T>
const double* Trainer<T>::fetch_sums() {
  Kokkos::deep_copy(space_, host_statistics_, statistics_);
  space_.fence(KOKOMOE_LABEL("train::fetch_sums"));
  return host_statistics_.data();
}

template <class T>
Vector<double> Trainer<T>::sequence_losses(const StepContext& ctx) {
  if (!needs_sequence_loss_) return {};
  return ctx.saved->template vector<double>(static_cast<std::size_t>(ctx.tokens.sequences));
}

template <class T>
const UpdateReport& Trainer<T>::update(std::int64_t step) {
  const Region region(KOKOMOE_LABEL("train::update"));
  const int layers = moe_layers();
  const auto layer_width = static_cast<std::size_t>(LoadStatistics::width(moe_.experts));
  const std::size_t width = statistics_.extent(0) / static_cast<std::size_t>(train_.accumulate);
  const auto loss_width = static_cast<std::size_t>(loss_width_);

  store_.begin_update();
  for (int a = 0; a < train_.accumulate; ++a) {
    fill(step, a);
    for (std::size_t p = 0; p < parts_.size(); ++p)
      micro_tokens_[static_cast<std::size_t>(a) * parts_.size() + p] =
          static_cast<double>(parts_[p].batch->global_tokens);
    reset_arenas();
    double* const row = statistics_.data() + width * static_cast<std::size_t>(a);
    pass(step, Vector<double>(row, loss_width),
         Matrix<double>(row + loss_width, static_cast<std::size_t>(layers),
                        layers > 0 ? layer_width : 0));
  }
  store_.finish_gradients(space_);
  reduce_gradients<T>(space_, layout_, store_);

  UpdateReport& report = report_;
  report.step = step + 1;
  report.grad_norm = gradient_norm<T>(space_, scratch_, store_, layout_.experts);
  communicator_->all_reduce_sum(space_, statistics_);
  fetch_sums();
  read_statistics(report);
  report.learning_rate = train_.schedule.rate(step + 1);
  if (!check_finite(report)) return report;
  const double scale = clip_factor(report.grad_norm, train_.clip);
  if (train_.sgd)
    sgd_step<T>(space_, train_.descent, report.learning_rate, scale, store_);
  else
    adamw_step<T>(space_, train_.optimizer, report.learning_rate, scale, step + 1, store_);
  end_step(step);
  return report;
}

template <class T>
void Trainer<T>::read_statistics(UpdateReport& report) {
  const auto layer_width = static_cast<std::size_t>(LoadStatistics::width(moe_.experts));
  const std::size_t width = statistics_.extent(0) / static_cast<std::size_t>(train_.accumulate);
  report.task_loss = report.aux_loss = 0;
  for (int a = 0; a < train_.accumulate; ++a) {
    const double* const row = host_statistics_.data() + width * static_cast<std::size_t>(a);
    report.task_loss += task_loss(row);
    const double* layer_row = row + loss_width_;
    int layer = 0;
    for (std::size_t p = 0; p < parts_.size(); ++p) {
      const double tokens = micro_tokens_[static_cast<std::size_t>(a) * parts_.size() + p];
      const double share =
          tokens / static_cast<double>(std::max<std::int64_t>(1, parts_[p].batch->update_tokens));
      for (int l = 0; l < parts_[p].stack->moe_layers(); ++l, ++layer, layer_row += layer_width) {
        LoadMetrics& load = report.load[static_cast<std::size_t>(layer)];
        load_metrics(std::span<const double>(layer_row, layer_width), moe_.experts, tokens, load);
        // Other scopes are among the router's own losses: they do not follow from global sums.
        const double balance = moe_.balance_scope == BalanceScope::global ? moe_.balance : 0;
        report.aux_loss +=
            share * (balance * load.balance + moe_.z_loss * load.z_square + load.router_loss);
      }
    }
  }
  report.loss = report.task_loss + report.aux_loss;
  report.tokens = parts_.back().batch->update_tokens;
  report.flops = 0;
  for (const Part& part : parts_)
    report.flops += part.token_flops * static_cast<double>(part.batch->update_tokens);
}

template <class T>
void Trainer<T>::end_step(std::int64_t step) {
  const int layers = moe_layers(), experts = moe_.experts;
  if (layers == 0) return;
  sum_counts(space_, statistics_, train_.accumulate, loss_width_, layers, experts, counts_);
  const StepContext ctx = bare_context(true, step);
  for_each_moe_layer([&](int layer, int, MoeLayer<T>& moe, const Part& part) {
    const Vector<const double> counts(counts_.data() + layer * experts,
                                      static_cast<std::size_t>(experts));
    moe.end_step(ctx, {counts, static_cast<double>(part.batch->update_tokens)});
  });
}

template <class T>
bool Trainer<T>::check_finite(UpdateReport& report) {
  report.not_finite.clear();
  if (std::isfinite(report.loss) && std::isfinite(report.grad_norm)) return true;
  std::vector<int> moe_layers;
  for_each_moe_layer([&](int, int block, MoeLayer<T>& layer, const Part&) {
    moe_layers.push_back(block);
    layer.discard_step(space_);
  });
  report.not_finite = detail::describe_non_finite<T>(space_, layout_, store_, report, moe_layers);
  if (!train_.skip_non_finite)
    throw NotFinite("update " + std::to_string(report.step) + ": " + report.not_finite +
                    "; parameters are as they were before it");
  return false;
}

template <class T>
std::vector<Sample> Trainer<T>::samples(int, const Tokenizer&) {
  return {};
}

template <class T>
std::size_t Trainer<T>::peak_bytes() const {
  return store_.bytes() + saved_.capacity() + scratch_.capacity();
}

template class Trainer<float>;
template class Trainer<double>;

}  // namespace kokomoe
