// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/train/language_model.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/core/philox.hpp"
#include "kokomoe/nn/cross_entropy.hpp"
#include "kokomoe/parallel/pulse.hpp"
#include "train/non_finite.hpp"

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>

namespace kokomoe {

namespace {

/// counts(l E + e) = assignments of layer l to expert e, over all micro-batches.
void sum_counts(const ExecutionSpace& space, const Vector<const double>& statistics,
                int micro_batches, int layers, int experts, const Vector<double>& counts) {
  const int layer_width = LoadStatistics::width(experts);
  const int width = CrossEntropySums::width + layers * layer_width;
  Kokkos::parallel_for(
      KOKOMOE_LABEL("train::sum_counts"),
      Kokkos::RangePolicy<ExecutionSpace>(space, 0, layers * experts), KOKKOS_LAMBDA(const int i) {
        const int place = CrossEntropySums::width + i / experts * layer_width + i % experts;
        double sum = 0;
        for (int a = 0; a < micro_batches; ++a) sum += statistics(a * width + place);
        counts(i) = sum;
      });
}

/// The same with the token counts that a balanced hash table is made from. Without a corpus they are
/// zero: the table then is the checkpoint's, which is about to be read.
LanguageModelConfig with_token_counts(LanguageModelConfig config,
                                      const std::optional<Corpus>& corpus) {
  MoeConfig& moe = config.model.moe;
  if (config.model.moe_every == 0 || moe.router != "hash" || moe.token_counts != nullptr)
    return config;
  const RouterOptions options = moe.options.completed(moe.router, router_info(moe.router).options);
  if (options.text("table") != "balanced") return config;
  std::vector<std::int64_t> counts(static_cast<std::size_t>(config.model.vocabulary), 0);
  std::vector<int> ids(corpus ? std::min<std::size_t>(corpus->size(), 1 << 16) : 0);
  for (std::size_t begin = 0; corpus && begin < corpus->size(); begin += ids.size()) {
    const std::size_t count = std::min(ids.size(), corpus->size() - begin);
    corpus->copy(begin, count, ids.data());
    for (std::size_t i = 0; i < count; ++i) ++counts[static_cast<std::size_t>(ids[i])];
  }
  moe.token_counts = std::make_shared<const std::vector<std::int64_t>>(std::move(counts));
  return config;
}

}  // namespace

template <class T>
LanguageModel<T>::LanguageModel(const LanguageModelConfig& config,
                                const Communicator& communicator, std::optional<Corpus> corpus)
    : config_(with_token_counts(config, corpus)),
      layout_(communicator, config.parallel.expert_ranks),
      communicator_(&communicator),
      exchange_(layout_.experts.size() > 1
                    ? std::make_unique<ExpertExchange>(layout_.experts, config.parallel)
                    : nullptr),
      store_(layout_.experts.rank(), layout_.experts.size()),
      model_(config_.model, store_),
      saved_("kokomoe::train::saved"),
      scratch_("kokomoe::train::scratch") {
  for (const std::string& pattern : config.freeze)
    if (store_.freeze(pattern) == 0)
      throw InputError("train/freeze: no tensor matches \"" + pattern + "\"");
  if (config.layout_free) store_.sum_exactly();
  store_.allocate(space_, config.seed);
  if (corpus)
    batches_.emplace(*corpus, config.seed, config.batch_tokens, config.sequence_length,
                     config.accumulate);
  const auto width = static_cast<std::size_t>(
      CrossEntropySums::width +
      model_.moe_layers() * LoadStatistics::width(config.model.moe.experts));
  statistics_ = Vector<double>("kokomoe::train::statistics",
                               width * static_cast<std::size_t>(config.accumulate));
  host_statistics_ = Kokkos::create_mirror(statistics_);
  counts_ = Vector<double>(
      "kokomoe::train::counts",
      static_cast<std::size_t>(model_.moe_layers() * config.model.moe.experts));
  for (const Block<T>& block : model_.blocks())
    if (block.moe() != nullptr && block.moe()->router().estimator().needs_sequence_loss)
      needs_sequence_loss_ = true;
  report_.load.resize(static_cast<std::size_t>(model_.moe_layers()));
  shares_.resize(static_cast<std::size_t>(config.accumulate));
}

template <class T>
StepContext LanguageModel<T>::context(const HostBatch& batch, bool training, std::int64_t step) {
  mark_progress();
  // All at once: a StepContext made empty makes a space of its own, which asks for memory.
  return {.space = space_,
          .communicator = communicator_,
          .saved = &saved_,
          .scratch = &scratch_,
          .tokens = to_device(space_, batch, device_batch_),
          .seed = config_.seed,
          .step = static_cast<std::uint64_t>(step),
          .replica = 0,
          .training = training,
          .update_tokens = static_cast<double>(config_.batch_tokens),
          .loss_scale = 1.0 / static_cast<double>(std::max<std::int64_t>(1, batch.global_scored)),
          .sequence_loss = {},
          .exchange = exchange_.get(),
          .layout_free = config_.layout_free};
}

template <class T>
const UpdateReport& LanguageModel<T>::update(std::int64_t step) {
  if (!batches_) fail("LanguageModel::update", "made without a training corpus");
  const Region region(KOKOMOE_LABEL("train::update"));
  const int micro_batches = config_.accumulate, layers = model_.moe_layers();
  const int experts = config_.model.moe.experts;
  const auto layer_width = static_cast<std::size_t>(LoadStatistics::width(experts));
  const std::size_t width = statistics_.extent(0) / static_cast<std::size_t>(micro_batches);
  double scored = 0;

  store_.begin_update();
  for (int a = 0; a < micro_batches; ++a) {
    batches_->fill(step, a, communicator_->rank(), communicator_->size(), host_batch_);
    StepContext ctx = context(host_batch_, true, step);
    shares_[static_cast<std::size_t>(a)] =
        static_cast<double>(host_batch_.global_tokens) / ctx.update_tokens;
    scored = static_cast<double>(host_batch_.global_scored);
    saved_.reset();
    scratch_.reset();
    double* const row = statistics_.data() + width * static_cast<std::size_t>(a);
    const Matrix<double> load(row + CrossEntropySums::width, static_cast<std::size_t>(layers),
                              layers > 0 ? layer_width : 0);
    const Matrix<T> logits = model_.forward(ctx, state_, load);
    const Vector<double> sequence_loss =
        needs_sequence_loss_
            ? saved_.vector<double>(static_cast<std::size_t>(ctx.tokens.sequences))
            : Vector<double>();
    cross_entropy<T>(ctx, logits, ctx.tokens.targets, config_.label_smoothing, true,
                     Vector<double>(row, CrossEntropySums::width), sequence_loss);
    ctx.sequence_loss = sequence_loss;
    model_.backward(ctx, state_, logits);
  }
  store_.finish_gradients(space_);
  reduce_gradients<T>(space_, layout_, store_);

  UpdateReport& report = report_;
  report.step = step + 1;
  report.task_loss = report.aux_loss = 0;
  report.grad_norm = gradient_norm<T>(space_, scratch_, store_, layout_.experts);
  communicator_->all_reduce_sum(space_, statistics_);
  Kokkos::deep_copy(space_, host_statistics_, statistics_);
  space_.fence(KOKOMOE_LABEL("train::statistics"));
  const MoeConfig& moe = config_.model.moe;
  for (int a = 0; a < micro_batches; ++a) {
    const double* const row = host_statistics_.data() + width * static_cast<std::size_t>(a);
    const double share = shares_[static_cast<std::size_t>(a)];
    report.task_loss += row[0] / scored;
    for (int l = 0; l < layers; ++l) {
      const std::span<const double> sums(
          row + CrossEntropySums::width + layer_width * static_cast<std::size_t>(l), layer_width);
      LoadMetrics& load = report.load[static_cast<std::size_t>(l)];
      load_metrics(sums, experts, share * static_cast<double>(config_.batch_tokens), load);
      // Other scopes are among the router's own losses: they do not follow from global sums.
      const double balance = moe.balance_scope == BalanceScope::global ? moe.balance : 0;
      report.aux_loss += share * (balance * load.balance + moe.z_loss * load.z_square +
                                  load.router_loss);
    }
  }
  report.loss = report.task_loss + report.aux_loss;
  report.tokens = config_.batch_tokens;
  report.learning_rate = config_.schedule.rate(step + 1);
  if (!check_finite(report)) return report;
  adamw_step<T>(space_, config_.optimizer, report.learning_rate,
                clip_factor(report.grad_norm, config_.clip), step + 1, store_);
  end_step(step);
  return report;
}

template <class T>
void LanguageModel<T>::end_step(std::int64_t step) {
  const int layers = model_.moe_layers(), experts = config_.model.moe.experts;
  if (layers == 0) return;
  sum_counts(space_, statistics_, config_.accumulate, layers, experts, counts_);
  const StepContext ctx = context(host_batch_, true, step);
  int layer = 0;
  for (Block<T>& block : model_.blocks()) {
    if (block.moe() == nullptr) continue;
    const Vector<const double> counts(counts_.data() + layer * experts,
                                      static_cast<std::size_t>(experts));
    block.moe()->end_step(ctx, {counts, static_cast<double>(config_.batch_tokens)});
    ++layer;
  }
}

template <class T>
bool LanguageModel<T>::check_finite(UpdateReport& report) {
  report.not_finite.clear();
  if (std::isfinite(report.loss) && std::isfinite(report.grad_norm)) return true;
  std::vector<int> moe_layers;
  for (std::size_t i = 0; i < model_.blocks().size(); ++i) {
    Block<T>& block = model_.blocks()[i];
    if (block.moe() == nullptr) continue;
    moe_layers.push_back(static_cast<int>(i));
    block.moe()->discard_step(space_);
  }
  report.not_finite = detail::describe_non_finite<T>(space_, layout_, store_, report, moe_layers);
  if (!config_.skip_non_finite)
    fail("update " + std::to_string(report.step),
         report.not_finite + "; parameters are as they were before it");
  return false;
}

template <class T>
EvaluationReport LanguageModel<T>::evaluate(const EvalWindows& windows) {
  const Region region(KOKOMOE_LABEL("train::evaluate"));
  double sums[CrossEntropySums::width] = {0, 0, 0};
  const Vector<double> device(statistics_.data(), CrossEntropySums::width);
  for (int b = 0; b < windows.batches(); ++b) {
    windows.fill(b, communicator_->rank(), host_batch_);
    const StepContext ctx = context(host_batch_, false, 0);
    saved_.reset();
    scratch_.reset();
    const Matrix<T> logits = model_.forward(ctx, state_);
    cross_entropy<T>(ctx, logits, ctx.tokens.targets, 0, false, device);
    Kokkos::deep_copy(space_, host_statistics_, statistics_);
    space_.fence(KOKOMOE_LABEL("train::evaluate"));
    for (std::size_t i = 0; i < CrossEntropySums::width; ++i) sums[i] += host_statistics_(i);
  }
  communicator_->all_reduce_sum(sums, static_cast<std::size_t>(CrossEntropySums::width));
  EvaluationReport report;
  report.tokens = windows.scored();
  report.bytes = windows.text_bytes();
  report.loss = sums[1] / static_cast<double>(report.tokens);
  report.perplexity = std::exp(report.loss);
  report.bits_per_byte = sums[1] / std::log(2.0) / static_cast<double>(report.bytes);
  report.accuracy = sums[2] / static_cast<double>(report.tokens);
  return report;
}

namespace {

/// Draws an index from softmax(logits / temperature) over the `top` largest.
template <class T>
int draw_token(const std::vector<T>& logits, double temperature, int top, double u) {
  std::vector<int> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto larger = [&](int a, int b) {
    const auto x = logits[static_cast<std::size_t>(a)], y = logits[static_cast<std::size_t>(b)];
    return x > y || (x == y && a < b);
  };
  std::sort(order.begin(), order.end(), larger);
  if (temperature == 0) return order[0];
  const std::size_t count =
      top > 0 ? std::min(order.size(), static_cast<std::size_t>(top)) : order.size();
  std::vector<double> cumulative(count);
  double sum = 0;
  for (std::size_t i = 0; i < count; ++i) {
    sum += std::exp((logits[static_cast<std::size_t>(order[i])] -
                     logits[static_cast<std::size_t>(order[0])]) /
                    temperature);
    cumulative[i] = sum;
  }
  const auto found = std::upper_bound(cumulative.begin(), cumulative.end(), u * sum);
  return order[std::min<std::size_t>(static_cast<std::size_t>(found - cumulative.begin()),
                                     count - 1)];
}

/// Tokens [begin, end) of a text as one sequence at positions from `first`.
void make_prompt(const std::vector<int>& ids, std::size_t begin, std::size_t end, int first,
                 HostBatch& batch) {
  const int count = static_cast<int>(end - begin);
  batch.ids.assign(ids.begin() + static_cast<std::ptrdiff_t>(begin),
                   ids.begin() + static_cast<std::ptrdiff_t>(end));
  batch.targets.assign(static_cast<std::size_t>(count), -1);
  batch.sequence_offsets = {0, count};
  batch.sequence_index.assign(static_cast<std::size_t>(count), 0);
  batch.position.resize(static_cast<std::size_t>(count));
  std::iota(batch.position.begin(), batch.position.end(), first);
  batch.tokens = batch.max_length = count;
  batch.sequences = 1;
  batch.scored = batch.global_scored = 0;
  batch.global_tokens = count;
}

}  // namespace

template <class T>
std::vector<int> LanguageModel<T>::generate(const std::vector<int>& prompt, int count,
                                            double temperature, int top, std::uint64_t seed) {
  if (prompt.empty()) fail("generate", "the prompt has no token");
  const std::size_t length = static_cast<std::size_t>(config_.model.max_length);
  const PhiloxStream stream(seed, Purpose::generation, 0, 0, 0);
  auto caches = model_.make_caches(1, config_.model.max_length);
  std::vector<int> ids = prompt;
  std::vector<T> row(static_cast<std::size_t>(config_.model.vocabulary));
  // The cache holds tokens [start, known); a full one is begun anew with the newer half.
  std::size_t start = ids.size() > length ? ids.size() - length / 2 : 0, known = start;
  for (int i = 0; i < count; ++i) {
    if (ids.size() - start > length)
      start = known = ids.size() - std::max<std::size_t>(1, length / 2);
    make_prompt(ids, known, ids.size(), static_cast<int>(known - start), host_batch_);
    const StepContext ctx = context(host_batch_, false, 0);
    saved_.reset();
    scratch_.reset();
    const Matrix<T> logits = model_.forward_cached(ctx, state_, caches);
    const Kokkos::View<T*, Kokkos::HostSpace> host(row.data(), row.size());
    Kokkos::deep_copy(space_, host,
                      Vector<T>(logits.data() + (logits.extent(0) - 1) * logits.extent(1), logits.extent(1)));
    space_.fence(KOKOMOE_LABEL("train::generate"));
    known = ids.size();
    ids.push_back(draw_token(row, temperature, top,
                             stream.uniform<double>(0, static_cast<std::uint32_t>(i), 0)));
  }
  return {ids.begin() + static_cast<std::ptrdiff_t>(prompt.size()), ids.end()};
}

template <class T>
std::size_t LanguageModel<T>::peak_bytes() const {
  return store_.bytes() + saved_.capacity() + scratch_.capacity();
}

template class LanguageModel<float>;
template class LanguageModel<double>;

}  // namespace kokomoe
