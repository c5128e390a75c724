// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/train/language_model.hpp"

#include "io/digest.hpp"
#include "kokomoe/core/error.hpp"
#include "kokomoe/core/philox.hpp"
#include "kokomoe/nn/cross_entropy.hpp"
#include "kokomoe/train/progress.hpp"
#include "train/token_counts.hpp"

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>

namespace kokomoe {

namespace {

LanguageModelConfig with_token_counts(LanguageModelConfig config,
                                      const std::optional<Corpus>& corpus) {
  detail::count_tokens_for_hash(
      config.model.moe, config.model.moe_every, config.model.vocabulary,
      corpus ? std::vector<const Corpus*>{&*corpus} : std::vector<const Corpus*>{});
  return config;
}

/// `tokens` and what makes whole routing groups of them: so each rank has whole ones, and they are
/// the same in an evaluation on any number of ranks.
std::int64_t whole_groups(const LanguageModelConfig& config, std::int64_t tokens) {
  const std::int64_t group = config.model.moe_every == 0 ? 0 : config.model.moe.routing_group;
  return group <= config.sequence_length ? tokens : (tokens + group - 1) / group * group;
}

}  // namespace

template <class T>
LanguageModel<T>::LanguageModel(const LanguageModelConfig& config, const Communicator& communicator,
                                std::optional<Corpus> corpus, std::optional<Corpus> heldout)
    : Trainer<T>(config, communicator),
      config_(with_token_counts(config, corpus)),
      model_(config_.model, this->store()),
      corpus_(std::move(corpus)) {
  if (corpus_)
    batches_.emplace(*corpus_, config_.seed, config_.batch_tokens, config_.sequence_length,
                     config_.accumulate);
  heldout_corpus_ = std::move(heldout);
  if (heldout_corpus_)
    heldout_.emplace(*heldout_corpus_, config_.sequence_length, config_.eval_stride,
                     whole_groups(config_, this->evaluation_tokens(config_.batch_tokens)),
                     communicator.size(), config_.eval_tokens);
  this->allocate({{&model_.stack(), &host_batch_, 0}}, config_.model.moe, CrossEntropySums::width);
  if (!corpus_) return;
  this->set_count(count_model<T>(config_, this->store()));
}

template <class T>
void LanguageModel<T>::fill(std::int64_t step, int micro_batch) {
  if (!batches_) fail("LanguageModel::update", "made without a training corpus");
  batches_->fill(step, micro_batch, this->communicator().rank(), this->communicator().size(),
                 host_batch_);
}

template <class T>
void LanguageModel<T>::pass(std::int64_t step, const Vector<double>& sums,
                            const Matrix<double>& load) {
  StepContext ctx = this->context(host_batch_, device_batch_, true, step);
  const Matrix<T> logits = model_.forward(ctx, state_, load);
  const Vector<double> sequence_loss = this->sequence_losses(ctx);
  cross_entropy<T>(ctx, logits, ctx.tokens.targets, config_.label_smoothing, true, sums,
                   sequence_loss);
  ctx.sequence_loss = sequence_loss;
  model_.backward(ctx, state_, logits);
}

template <class T>
double LanguageModel<T>::task_loss(const double* sums) const {
  return sums[0] / static_cast<double>(host_batch_.global_scored);
}

template <class T>
double LanguageModel<T>::heldout_tokens() const {
  return heldout_ ? static_cast<double>(heldout_->windows()) * config_.sequence_length : 0;
}

template <class T>
std::string LanguageModel<T>::data_digest() const {
  return detail::hex(corpus_->key());
}

template <class T>
std::string LanguageModel<T>::data_summary() const {
  return human_count(static_cast<double>(corpus_->size())) + " tokens, " +
         human_count(static_cast<double>(config_.batch_tokens)) + " an update" +
         (heldout_ ? ", " + human_count(static_cast<double>(heldout_->scored())) + " held out"
                   : "");
}

template <class T>
Evaluation LanguageModel<T>::evaluate_heldout(bool) {
  const EvaluationReport report = evaluate(*heldout_);
  return {report.loss,
          {{"bits_per_byte", report.bits_per_byte},
           {"perplexity", report.perplexity},
           {"accuracy", report.accuracy}},
          report.tokens,
          report.bytes};
}

template <class T>
EvaluationReport LanguageModel<T>::evaluate(const EvalWindows& windows) {
  const Region region(KOKOMOE_LABEL("train::evaluate"));
  double sums[CrossEntropySums::width] = {0, 0, 0};
  const Vector<double> device = this->evaluation_sums(CrossEntropySums::width);
  for (int b = 0; b < windows.batches(); ++b) {
    windows.fill(b, this->communicator().rank(), host_batch_);
    const StepContext ctx = this->context(host_batch_, device_batch_, false, 0);
    this->reset_arenas();
    const Matrix<T> logits = model_.forward(ctx, state_);
    cross_entropy<T>(ctx, logits, ctx.tokens.targets, 0, false, device);
    const double* const found = this->fetch_sums();
    for (std::size_t i = 0; i < CrossEntropySums::width; ++i) sums[i] += found[i];
  }
  this->communicator().all_reduce_sum(sums, static_cast<std::size_t>(CrossEntropySums::width));
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
    sum += std::exp(
        (logits[static_cast<std::size_t>(order[i])] - logits[static_cast<std::size_t>(order[0])]) /
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
  batch.global_tokens = batch.update_tokens = count;
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
    const StepContext ctx = this->context(host_batch_, device_batch_, false, 0);
    this->reset_arenas();
    const Matrix<T> logits = model_.forward_cached(ctx, state_, caches);
    const Kokkos::View<T*, Kokkos::HostSpace> host(row.data(), row.size());
    Kokkos::deep_copy(
        this->space(), host,
        Vector<T>(logits.data() + (logits.extent(0) - 1) * logits.extent(1), logits.extent(1)));
    this->space().fence(KOKOMOE_LABEL("train::generate"));
    known = ids.size();
    ids.push_back(draw_token(row, temperature, top,
                             stream.uniform<double>(0, static_cast<std::uint32_t>(i), 0)));
  }
  return {ids.begin() + static_cast<std::ptrdiff_t>(prompt.size()), ids.end()};
}

template <class T>
std::vector<Sample> LanguageModel<T>::samples(int count, const Tokenizer& tokenizer) {
  constexpr int prompt_tokens = 16, tokens = 64;
  constexpr double temperature = 0.8;
  std::vector<Sample> samples;
  const auto size = static_cast<std::int64_t>(heldout_corpus_->size());
  std::vector<int> prompt(static_cast<std::size_t>(std::min<std::int64_t>(prompt_tokens, size)));
  for (int i = 0; i < count; ++i) {
    const std::int64_t places = size - static_cast<std::int64_t>(prompt.size());
    heldout_corpus_->copy(static_cast<std::size_t>(places * i / count), prompt.size(),
                          prompt.data());
    const std::vector<int> ids =
        generate(prompt, tokens, temperature, 0, config_.seed + static_cast<std::uint64_t>(i));
    samples.push_back({tokenizer.decode(ids), tokenizer.decode(prompt), ""});
  }
  return samples;
}

template class LanguageModel<float>;
template class LanguageModel<double>;

}  // namespace kokomoe
