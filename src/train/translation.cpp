// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/train/translation.hpp"

#include "io/digest.hpp"
#include "kokomoe/core/error.hpp"
#include "kokomoe/data/text_scores.hpp"
#include "kokomoe/nn/cross_entropy.hpp"
#include "kokomoe/train/progress.hpp"
#include "train/step_planner.hpp"
#include "train/tasks.hpp"
#include "train/token_counts.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

namespace kokomoe {

namespace {

TranslationConfig with_token_counts(TranslationConfig config,
                                    const std::optional<PairCorpus>& corpus) {
  std::vector<const Corpus*> sides;
  if (corpus) sides = {&corpus->source(), &corpus->target()};
  detail::count_tokens_for_hash(config.model.moe, config.model.moe_every, config.model.vocabulary,
                                sides);
  return config;
}

}  // namespace

template <class T>
Translation<T>::Translation(const TranslationConfig& config, const Communicator& communicator,
                            std::optional<PairCorpus> corpus, std::optional<PairCorpus> heldout,
                            std::shared_ptr<const Tokenizer> tokenizer)
    : Trainer<T>(config, communicator),
      config_(with_token_counts(config, corpus)),
      model_(config_.model, this->store()),
      corpus_(std::move(corpus)),
      heldout_corpus_(std::move(heldout)),
      tokenizer_(std::move(tokenizer)) {
  const int length = config_.model.max_length;
  if (corpus_)
    batches_.emplace(*corpus_, config_.seed, config_.batch_tokens, length, config_.accumulate);
  if (heldout_corpus_)
    heldout_.emplace(*heldout_corpus_, length, this->evaluation_tokens(config_.batch_tokens),
                     communicator.size());
  this->allocate(
      {{&model_.encoder(), &host_batch_.source}, {&model_.decoder(), &host_batch_.target}},
      config_.model.moe, CrossEntropySums::width);
  if (corpus_) count_work();
}

/// Attention among the tokens of a sentence is counted at the corpus' mean lengths.
template <class T>
void Translation<T>::count_work() {
  double source = 0, target = 0;
  for (std::int64_t pair = 0; pair < corpus_->size(); ++pair) {
    source += corpus_->source_length(pair) + 1;
    target += corpus_->target_length(pair) + 1;
  }
  source /= static_cast<double>(corpus_->size());
  target /= static_cast<double>(corpus_->size());
  this->set_count(count_model<T>(config_, this->store(), source, target));
}

template <class T>
void Translation<T>::fill(std::int64_t step, int micro_batch) {
  if (!batches_) fail("Translation::update", "made without training pairs");
  batches_->fill(step, micro_batch, this->communicator().rank(), this->communicator().size(),
                 host_batch_);
}

template <class T>
void Translation<T>::pass(std::int64_t step, const Vector<double>& sums,
                          const Matrix<double>& load) {
  StepContext source = this->context(host_batch_.source, device_source_, true, step);
  StepContext target = this->context(host_batch_.target, device_target_, true, step);
  source.loss_scale = target.loss_scale;
  const Matrix<T> logits = model_.forward(source, target, state_, load);
  const Vector<double> sequence_loss = this->sequence_losses(target);
  cross_entropy<T>(target, logits, target.tokens.targets, config_.label_smoothing, true, sums,
                   sequence_loss);
  source.sequence_loss = target.sequence_loss = sequence_loss;
  model_.backward(source, target, state_, logits);
}

template <class T>
double Translation<T>::task_loss(const double* sums) const {
  return sums[0] / static_cast<double>(host_batch_.target.global_scored);
}

template <class T>
TranslationReport Translation<T>::evaluate(const EvalPairs& pairs) {
  const Region region(KOKOMOE_LABEL("train::evaluate"));
  double sums[CrossEntropySums::width] = {0, 0, 0};
  const Vector<double> device = this->evaluation_sums(CrossEntropySums::width);
  for (int b = 0; b < pairs.batches(); ++b) {
    pairs.fill(b, this->communicator().rank(), host_batch_);
    const StepContext source = this->context(host_batch_.source, device_source_, false, 0);
    const StepContext target = this->context(host_batch_.target, device_target_, false, 0);
    this->reset_arenas();
    const Matrix<T> logits = model_.forward(source, target, state_);
    cross_entropy<T>(target, logits, target.tokens.targets, 0, false, device);
    const double* const found = this->fetch_sums();
    for (std::size_t i = 0; i < CrossEntropySums::width; ++i) sums[i] += found[i];
  }
  this->communicator().all_reduce_sum(sums, static_cast<std::size_t>(CrossEntropySums::width));
  TranslationReport report;
  report.tokens = pairs.scored();
  report.loss = sums[1] / static_cast<double>(report.tokens);
  report.perplexity = std::exp(report.loss);
  report.accuracy = sums[2] / static_cast<double>(report.tokens);
  return report;
}

template <class T>
std::vector<Hypothesis> Translation<T>::translate(const std::vector<std::vector<int>>& sources) {
  // Those of like length together: a batch takes as many steps as its longest translation.
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < sources.size(); ++i)
    if (!sources[i].empty()) order.push_back(i);
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return sources[a].size() < sources[b].size();
  });
  constexpr std::size_t most_hypotheses = 256;
  const std::size_t sentences =
      std::max<std::size_t>(1, most_hypotheses / static_cast<std::size_t>(config_.beam));
  const SearchOptions options{config_.beam, config_.length_penalty, config_.extra_length};
  std::vector<Hypothesis> best(sources.size());
  for (std::size_t begin = 0; begin < order.size(); begin += sentences) {
    const std::size_t end = std::min(order.size(), begin + sentences);
    std::vector<std::vector<int>> batch;
    for (std::size_t i = begin; i < end; ++i) batch.push_back(sources[order[i]]);
    auto found = beam_search<T>(this->bare_context(false, 0), model_, batch,
                                tokenizer_->beginning_of_text(), options);
    for (std::size_t i = begin; i < end; ++i) best[order[i]] = std::move(found[i - begin].front());
  }
  return best;
}

template <class T>
std::vector<int> Translation<T>::heldout_source(std::int64_t pair) const {
  std::vector<int> line(static_cast<std::size_t>(heldout_corpus_->source_length(pair)));
  heldout_corpus_->copy_source(pair, line.data());
  line.resize(std::min(line.size(), static_cast<std::size_t>(max_source())));
  return line;
}

template <class T>
std::vector<int> Translation<T>::heldout_target(std::int64_t pair) const {
  std::vector<int> line(static_cast<std::size_t>(heldout_corpus_->target_length(pair)));
  heldout_corpus_->copy_target(pair, line.data());
  return line;
}

template <class T>
void Translation<T>::score_translations(Evaluation& evaluation) {
  std::vector<std::vector<int>> sources;
  std::vector<std::string> references, hypotheses;
  for (std::int64_t pair = 0; pair < heldout_corpus_->size(); ++pair) {
    sources.push_back(heldout_source(pair));
    references.push_back(tokenizer_->decode(heldout_target(pair)));
  }
  for (const Hypothesis& best : translate(sources))
    hypotheses.push_back(tokenizer_->decode(best.tokens));
  evaluation.figures.emplace_back("bleu", bleu(hypotheses, references).score);
  evaluation.figures.emplace_back("chrf", chrf(hypotheses, references));
}

template <class T>
std::vector<Sample> Translation<T>::samples(int count, const Tokenizer& tokenizer) {
  std::vector<std::vector<int>> sources;
  const std::int64_t pairs = std::min<std::int64_t>(count, heldout_corpus_->size());
  for (std::int64_t pair = 0; pair < pairs; ++pair) sources.push_back(heldout_source(pair));
  std::vector<Sample> samples;
  for (const Hypothesis& best : translate(sources)) {
    const std::size_t pair = samples.size();
    samples.push_back({tokenizer.decode(best.tokens), tokenizer.decode(sources[pair]),
                       tokenizer.decode(heldout_target(static_cast<std::int64_t>(pair)))});
  }
  return samples;
}

template <class T>
Evaluation Translation<T>::evaluate_heldout(bool thoroughly) {
  const TranslationReport report = evaluate(*heldout_);
  Evaluation evaluation{report.loss,
                        {{"perplexity", report.perplexity}, {"accuracy", report.accuracy}},
                        report.tokens,
                        0};
  if (thoroughly && tokenizer_ && this->communicator().size() == 1) score_translations(evaluation);
  return evaluation;
}

template <class T>
double Translation<T>::heldout_tokens() const {
  return heldout_ ? static_cast<double>(heldout_->tokens()) : 0;
}

template <class T>
std::string Translation<T>::data_digest() const {
  // Either side's digest tells its texts apart; turned, so that two equal sides do not cancel.
  const std::uint64_t target = corpus_->target().key();
  return detail::hex(corpus_->source().key() ^ (target << 1 | target >> 63));
}

template <class T>
std::string Translation<T>::data_summary() const {
  const auto count = [](std::int64_t n) { return human_count(static_cast<double>(n)); };
  const auto left_out = [&](std::int64_t n) {
    return n == 0 ? std::string()
                  : " (" + count(n) + " left out: empty, or longer than " +
                        std::to_string(config_.model.max_length) + " tokens)";
  };
  std::string text = count(batches_->pairs()) + " pairs" + left_out(batches_->left_out()) + " in " +
                     count(batches_->updates_of_epoch()) + " updates of up to " +
                     count(config_.batch_tokens) + " tokens a side";
  if (heldout_)
    text += ", " + count(heldout_->pairs()) + " held out" + left_out(heldout_->left_out());
  return text;
}

template class Translation<float>;
template class Translation<double>;

namespace detail {

namespace {

class TranslationTask : public TaskWith<TranslationTask, TranslationConfig> {
 public:
  using TaskWith::TaskWith;

  bool looks_ahead() const override {
    return config_.model.moe_every != 0 && looks_at_groups(config_.model.moe);
  }

  void rehearse(const Deck& deck, DataUse) const override {
    const TranslationConfig config = sized(stand_in_vocabulary(config_.tokenizer));
    if (config.double_precision)
      require_model<double, EncoderDecoder>(deck, config, config.model);
    else
      require_model<float, EncoderDecoder>(deck, config, config.model);
  }

  StepPlan plan(int ranks, double length, const Communicator& communicator,
                std::vector<std::string>& notes) const override {
    return plan_step(sized(planned_vocabulary(config_.tokenizer, communicator, notes)), ranks,
                     length);
  }

  template <class T>
  std::unique_ptr<Trainer<T>> make_trainer(std::shared_ptr<const Tokenizer> tokenizer,
                                           const Communicator& communicator, DataUse use) const {
    TranslationConfig config = config_;
    config.model.vocabulary = tokenizer->vocabulary();
    const auto open = [&](const auto& source, const auto& target) {
      return PairCorpus::open(source, target, *tokenizer, config.cache_folder, communicator);
    };
    std::optional<PairCorpus> train, heldout;
    if (use == DataUse::training || use == DataUse::resuming)
      train = open(config.train_source, config.train_target);
    if (use != DataUse::none && !config.heldout_source.empty())
      heldout = open(config.heldout_source, config.heldout_target);
    return std::make_unique<Translation<T>>(config, communicator, std::move(train),
                                            std::move(heldout), std::move(tokenizer));
  }

 private:
  TranslationConfig sized(int vocabulary) const {
    TranslationConfig config = config_;
    config.model.vocabulary = vocabulary;
    count_tokens_for_hash(config.model.moe, config.model.moe_every, vocabulary, {});
    return config;
  }
};

}  // namespace

std::unique_ptr<Task> read_translation_task(const Deck& deck, std::vector<std::string>& notes) {
  return std::make_unique<TranslationTask>(read_translation_deck(deck, notes));
}

}  // namespace detail
}  // namespace kokomoe
