// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/train/sentence_trainer.hpp"

#include "io/digest.hpp"
#include "kokomoe/core/error.hpp"
#include "kokomoe/data/task_metrics.hpp"
#include "kokomoe/data/upload.hpp"
#include "kokomoe/io/checkpoint.hpp"
#include "kokomoe/parallel/agree.hpp"
#include "kokomoe/train/progress.hpp"
#include "kokomoe/train/training_run.hpp"
#include "train/checkpoint_deck.hpp"
#include "train/step_planner.hpp"
#include "train/tasks.hpp"
#include "train/token_counts.hpp"
#include "train/training_loop.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <utility>

namespace kokomoe {

namespace {

SentenceTaskConfig completed(SentenceTaskConfig config, int vocabulary) {
  EncoderConfig& model = config.model.encoder;
  model.vocabulary = vocabulary;
  detail::count_tokens_for_hash(model.moe, model.moe_every, vocabulary, {});
  return config;
}

/// The head keeps its rate; below it each layer has `decay` of the one above, the embedding last.
template <class T>
void decay_rates(ParameterStore<T>& store, int layers, double decay) {
  const std::string encoder = "discriminator.encoder.";
  store.scale_rate(encoder + "final_norm.*", decay);
  for (int layer = 0; layer < layers; ++layer)
    store.scale_rate(encoder + std::to_string(layer) + ".*", std::pow(decay, layers - layer));
  store.scale_rate(encoder + "projection.*", std::pow(decay, layers + 1));
  store.scale_rate("embedding.*", std::pow(decay, layers + 1));
}

std::string shape_text(const std::vector<std::size_t>& shape) {
  std::string text;
  for (const std::size_t n : shape) text += (text.empty() ? "" : ", ") + std::to_string(n);
  return "(" + text + ")";
}

/// The largest of each row's C values.
std::vector<int> classes_of(const std::vector<double>& logits, int classes) {
  std::vector<int> told;
  for (auto row = logits.begin(); row != logits.end(); row += classes)
    told.push_back(static_cast<int>(std::max_element(row, row + classes) - row));
  return told;
}

}  // namespace

template <class T>
SentenceTrainer<T>::SentenceTrainer(const SentenceTaskConfig& config, const SpecialTokens& special,
                                    const Communicator& communicator,
                                    std::optional<SentenceCorpus> corpus,
                                    std::optional<SentenceCorpus> heldout)
    : Trainer<T>(config, communicator),
      config_(completed(config, special.vocabulary)),
      special_(special),
      model_(config_.model, this->store()),
      corpus_(std::move(corpus)),
      heldout_(std::move(heldout)) {
  if (corpus_)
    batches_.emplace(*corpus_, special_, config_.seed, config_.sentences, config_.max_length,
                     config_.accumulate);
  decay_rates(this->store(), config_.model.encoder.layers, config_.layer_decay);
  this->allocate({{&model_.encoder().stack(), &host_batch_.tokens}}, config_.moe(),
                 SentenceSums::width);
  if (!corpus_) return;
  mean_length_ = mean_length(*corpus_);
  this->set_count(count_model<T>(config_, this->store(), mean_length_));
}

/// As many tokens at once as a micro-batch has: of training, where its corpus is there.
template <class T>
EvalSentences SentenceTrainer<T>::sentences_of(const SentenceCorpus& corpus) const {
  const double sentences = batches_ ? batches_->sentences() : config_.sentences;
  const double length = corpus_ ? mean_length_ : mean_length(corpus);
  const auto update = static_cast<std::int64_t>(sentences * length);
  return EvalSentences(corpus, special_, config_.max_length, this->evaluation_tokens(update),
                       this->communicator().size());
}

template <class T>
double SentenceTrainer<T>::mean_length(const SentenceCorpus& corpus) const {
  const EvalSentences all(corpus, special_, config_.max_length, config_.max_length);
  return static_cast<double>(all.tokens()) /
         static_cast<double>(std::max<std::int64_t>(1, corpus.size()));
}

template <class T>
void SentenceTrainer<T>::begin_with(const ParameterStore<T>& other) {
  for (std::size_t i = 0; i < this->store().entries().size(); ++i) {
    const auto& own = this->store().entries()[i];
    const std::string& name = own.spec.name;
    if (!name.starts_with("embedding.") && !name.starts_with("discriminator.encoder.")) continue;
    const auto& all = other.entries();
    const auto found = std::find_if(all.begin(), all.end(),
                                    [&](const auto& entry) { return entry.spec.name == name; });
    if (found == all.end())
      throw InputError("model/from: no tensor \"" + name +
                       "\" there: it wants a run of electra or sentences");
    if (found->local_shape != own.local_shape)
      throw InputError("model/from: tensor \"" + name + "\" is " + shape_text(found->local_shape) +
                       " there and " + shape_text(own.local_shape) + " here");
    Kokkos::deep_copy(this->space(),
                      this->store().value_vector(ParameterHandle{static_cast<int>(i)}),
                      other.value_vector(ParameterHandle{static_cast<int>(found - all.begin())}));
  }
  this->store().round_values(this->space());
  this->space().fence(KOKOMOE_LABEL("train::begin_with"));
}

template <class T>
void SentenceTrainer<T>::fill(std::int64_t step, int micro_batch) {
  if (!batches_) fail("SentenceTrainer::update", "made without training sentences");
  batches_->fill(step, micro_batch, this->communicator().rank(), this->communicator().size(),
                 host_batch_);
}

template <class T>
Vector<const int> SentenceTrainer<T>::segments() {
  return upload(this->space(), "kokomoe::train::segments", host_batch_.segments, device_segments_);
}

template <class T>
void SentenceTrainer<T>::losses(const StepContext& ctx, bool gradient, const Vector<double>& sums,
                                const Vector<double>& sequence_loss) {
  if (config_.model.classes > 1)
    model_.classification_loss(
        ctx, state_,
        upload(this->space(), "kokomoe::train::labels", host_batch_.labels, device_labels_),
        gradient, sums, sequence_loss);
  else
    model_.regression_loss(
        ctx, state_,
        upload(this->space(), "kokomoe::train::numbers", host_batch_.numbers, device_numbers_),
        gradient, sums, sequence_loss);
}

template <class T>
void SentenceTrainer<T>::pass(std::int64_t step, const Vector<double>& sums,
                              const Matrix<double>& load) {
  StepContext ctx = this->context(host_batch_.tokens, device_batch_, true, step);
  model_.forward(ctx, segments(), state_, load);
  const Vector<double> sequence_loss = this->sequence_losses(ctx);
  losses(ctx, true, sums, sequence_loss);
  ctx.sequence_loss = sequence_loss;
  model_.backward(ctx, state_);
}

template <class T>
double SentenceTrainer<T>::task_loss(const double* sums) const {
  return sums[0] / static_cast<double>(host_batch_.tokens.global_scored);
}

template <class T>
std::vector<double> SentenceTrainer<T>::predict(const SentenceCorpus& corpus, double* loss) {
  const Region region(KOKOMOE_LABEL("train::evaluate"));
  const auto classes = static_cast<std::size_t>(config_.model.classes);
  // The last one is the loss.
  std::vector<double> all(static_cast<std::size_t>(corpus.size()) * classes + 1, 0.0);
  const Vector<double> device = this->evaluation_sums(SentenceSums::width);
  const EvalSentences sentences = sentences_of(corpus);
  for (int b = 0; b < sentences.batches(); ++b) {
    sentences.fill(b, this->communicator().rank(), host_batch_);
    const StepContext ctx = this->context(host_batch_.tokens, device_batch_, false, 0);
    this->reset_arenas();
    const Matrix<T> predictions = model_.forward(ctx, segments(), state_);
    if (loss != nullptr) {
      losses(ctx, false, device);
      all.back() += this->fetch_sums()[0];
    }
    const auto host = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), predictions);
    for (std::size_t i = 0; i < host_batch_.rows.size(); ++i)
      for (std::size_t c = 0; c < classes; ++c)
        all[static_cast<std::size_t>(host_batch_.rows[i]) * classes + c] =
            static_cast<double>(host(i, c));
  }
  this->communicator().all_reduce_sum(all.data(), all.size());
  if (loss != nullptr) *loss = all.back();
  all.pop_back();
  return all;
}

template <class T>
std::vector<std::string> SentenceTrainer<T>::predicted_labels(const SentenceCorpus& corpus) {
  const std::vector<double> predictions = predict(corpus);
  std::vector<std::string> words;
  if (config_.model.classes > 1) {
    for (const int c : classes_of(predictions, config_.model.classes))
      words.push_back(config_.format.labels[static_cast<std::size_t>(c)]);
    return words;
  }
  for (const double number : predictions) {
    char text[32];
    std::snprintf(text, sizeof text, "%.6g", number);
    words.emplace_back(text);
  }
  return words;
}

template <class T>
Evaluation SentenceTrainer<T>::evaluate_heldout(bool) {
  Evaluation evaluation;
  const std::vector<double> predictions = predict(*heldout_, &evaluation.loss);
  evaluation.loss /= static_cast<double>(heldout_->size());
  evaluation.scored = heldout_->size();
  evaluation.unit = "sentences";
  if (config_.model.classes > 1) {
    const std::vector<int> told = classes_of(predictions, config_.model.classes);
    evaluation.figures = {{"accuracy", accuracy(told, heldout_->labels())},
                          {"matthews", matthews_correlation(told, heldout_->labels())}};
    if (config_.model.classes == 2)
      evaluation.figures.emplace_back("f1", f1_score(told, heldout_->labels()));
  } else {
    evaluation.figures = {{"pearson", pearson_correlation(predictions, heldout_->numbers())},
                          {"spearman", spearman_correlation(predictions, heldout_->numbers())}};
  }
  return evaluation;
}

template <class T>
double SentenceTrainer<T>::heldout_tokens() const {
  return heldout_ ? static_cast<double>(sentences_of(*heldout_).tokens()) : 0;
}

template <class T>
std::string SentenceTrainer<T>::data_digest() const {
  return detail::hex(corpus_->key());
}

template <class T>
std::string SentenceTrainer<T>::data_summary() const {
  const auto describe = [](const SentenceCorpus& corpus) {
    return human_count(static_cast<double>(corpus.size())) +
           (corpus.pairs() ? " pairs" : " sentences") +
           (corpus.left_out() > 0
                ? " (" + std::to_string(corpus.left_out()) + " incomplete rows left out)"
                : "");
  };
  std::string text = describe(*corpus_) + " in " +
                     human_count(static_cast<double>(batches_->updates_of_epoch())) +
                     " updates of " + std::to_string(batches_->sentences());
  if (heldout_) text += ", " + describe(*heldout_) + " held out";
  return text;
}

template class SentenceTrainer<float>;
template class SentenceTrainer<double>;

namespace detail {

namespace {

class SentenceTask : public TaskWith<SentenceTask, SentenceTaskConfig> {
 public:
  using TaskWith::TaskWith;

  std::shared_ptr<const Tokenizer> make_tokenizer(const Communicator& communicator,
                                                  std::vector<std::string>& notes) const override {
    if (config_.from.empty())
      return make_sentence_tokenizer(config_.tokenizer, config_.format, communicator, &notes);
    return tokenizer_of(
        read_manifest(resolve_checkpoint(config_.from, communicator), communicator));
  }

  void rehearse(const Deck& deck, DataUse use) const override {
    const SentenceTaskConfig config =
        completed(config_, stand_in_vocabulary(config_.tokenizer) + special_tokens);
    if (config.double_precision)
      require_model<double, SentenceClassifier>(deck, config, config.model);
    else
      require_model<float, SentenceClassifier>(deck, config, config.model);
    std::error_code ignored;
    if (use == DataUse::training && std::filesystem::exists(config.from, ignored))
      require_encoder(deck, config.from);
  }

  StepPlan plan(int ranks, double length, const Communicator& communicator,
                std::vector<std::string>& notes) const override {
    return plan_step(completed(config_, vocabulary(communicator, notes)), ranks, length);
  }

  template <class T>
  std::unique_ptr<Trainer<T>> make_trainer(std::shared_ptr<const Tokenizer> tokenizer,
                                           const Communicator& communicator, DataUse use) const {
    const auto open = [&](const std::vector<std::string>& files) {
      return SentenceCorpus::open(files, config_.format, *tokenizer, communicator);
    };
    std::optional<SentenceCorpus> train, heldout;
    if (use == DataUse::training || use == DataUse::resuming) train = open(config_.train_files);
    if (use != DataUse::none && !config_.heldout_files.empty())
      heldout = open(config_.heldout_files);
    auto trainer = std::make_unique<SentenceTrainer<T>>(
        config_, SpecialTokens(*tokenizer), communicator, std::move(train), std::move(heldout));
    if (use == DataUse::training && !config_.from.empty()) {
      const std::string ranks =
          "parallel/expert_ranks=" + std::to_string(config_.parallel.expert_ranks);
      trainer->begin_with(
          load_trainer<T>(config_.from, {ranks}, communicator, DataUse::none).model->store());
    }
    return trainer;
  }

 private:
  /// What training would have. A run to begin with that is not there yet is passed over.
  int vocabulary(const Communicator& communicator, std::vector<std::string>& notes) const {
    if (config_.from.empty())
      return planned_vocabulary(config_.tokenizer, communicator, notes) + special_tokens;
    std::int64_t found = 0;  // not every rank need see the same files
    run_on_root(communicator, [&] {
      std::error_code ignored;
      if (std::filesystem::exists(config_.from, ignored))
        found = tokenizer_of(read_manifest(resolve_checkpoint(config_.from)))->vocabulary();
    });
    found = communicator.all_reduce_max(found);
    if (found > 0) return static_cast<int>(found) + special_tokens;
    const int assumed = stand_in_vocabulary(config_.tokenizer);
    notes.push_back("model/from = \"" + config_.from + "\" is not there: a vocabulary of " +
                    std::to_string(assumed) +
                    " is assumed; model/from=\"\" with data/vocabulary=N plans with N");
    return assumed + special_tokens;
  }

  static void require_encoder(const Deck& deck, const std::string& from) {
    try {
      refuse_other_encoder(deck, resolve_checkpoint(from));
    } catch (const InputError& error) {
      deck.refuse("model/from", error.what());
    }
  }
};

}  // namespace

std::unique_ptr<Task> read_sentence_task(const Deck& deck, std::vector<std::string>& notes) {
  return std::make_unique<SentenceTask>(read_sentence_deck(deck, notes));
}

}  // namespace detail
}  // namespace kokomoe
