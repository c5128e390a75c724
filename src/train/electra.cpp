// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/train/electra.hpp"

#include "io/digest.hpp"
#include "kokomoe/core/error.hpp"
#include "kokomoe/data/sentences.hpp"
#include "kokomoe/data/upload.hpp"
#include "kokomoe/train/progress.hpp"
#include "train/step_planner.hpp"
#include "train/tasks.hpp"
#include "train/token_counts.hpp"

#include <algorithm>
#include <utility>

namespace kokomoe {

namespace {

ElectraTaskConfig completed(ElectraTaskConfig config, int vocabulary,
                            const std::optional<Corpus>& corpus) {
  EncoderConfig& model = config.model.discriminator;
  model.vocabulary = vocabulary;
  detail::count_tokens_for_hash(
      model.moe, model.moe_every, model.vocabulary,
      corpus ? std::vector<const Corpus*>{&*corpus} : std::vector<const Corpus*>{});
  return config;
}

}  // namespace

template <class T>
ElectraTrainer<T>::ElectraTrainer(const ElectraTaskConfig& config, const SpecialTokens& special,
                                  const Communicator& communicator, std::optional<Corpus> corpus,
                                  std::optional<Corpus> heldout)
    : Trainer<T>(config, communicator),
      config_(completed(config, special.vocabulary, corpus)),
      special_(special),
      masking_(config.mask_rate, special.mask, {special.first, special.separator}, config.seed),
      model_(config_.model, this->store()),
      corpus_(std::move(corpus)) {
  if (corpus_)
    batches_.emplace(*corpus_, config_.seed, config_.batch_tokens, config_.sequence_length,
                     config_.accumulate);
  if (heldout)
    heldout_.emplace(std::move(*heldout), config_.sequence_length, config_.sequence_length,
                     this->evaluation_tokens(config_.batch_tokens), communicator.size(),
                     config_.eval_tokens);
  this->allocate({{&model_.generator().stack(), &host_batch_},
                  {&model_.discriminator().stack(), &host_batch_}},
                 config_.moe(), ElectraSums::width);
  if (corpus_) this->set_count(count_model<T>(config_, this->store()));
}

template <class T>
void ElectraTrainer<T>::fill_micro_batch(std::int64_t step, int micro_batch) {
  batches_->fill(step, micro_batch, this->communicator().rank(), this->communicator().size(),
                 host_batch_);
  mark_windows(special_, config_.seed, step, host_batch_, host_segments_);
  masking_.hide(step, host_batch_, host_masked_);
}

template <class T>
void ElectraTrainer<T>::fill(std::int64_t step, int micro_batch) {
  if (!batches_) fail("ElectraTrainer::update", "made without a training corpus");
  if (micro_batch == 0) {
    // Borders of texts are not hidden, so that only who has read a window knows its number. The
    // first micro-batch comes last, to stay.
    std::int64_t hidden = 0;
    for (int a = config_.accumulate - 1; a >= 0; --a) {
      fill_micro_batch(step, a);
      hidden += static_cast<std::int64_t>(host_masked_.rows.size());
    }
    this->communicator().all_reduce_sum(&hidden, 1);
    hidden_ = hidden;
  } else {
    fill_micro_batch(step, micro_batch);
  }
  host_batch_.global_scored = hidden_;
}

template <class T>
ElectraInput ElectraTrainer<T>::input() {
  const MaskedTokens masked = to_device(this->space(), host_masked_, device_masked_);
  return {masked.ids, masked.rows,
          upload(this->space(), "kokomoe::train::segments", host_segments_, device_segments_)};
}

template <class T>
void ElectraTrainer<T>::pass(std::int64_t step, const Vector<double>& sums,
                             const Matrix<double>& load) {
  StepContext ctx = this->context(host_batch_, device_batch_, true, step);
  model_.forward(ctx, input(), state_, load);
  const Vector<double> sequence_loss = this->sequence_losses(ctx);
  model_.losses(ctx, state_, true, sums, sequence_loss);
  ctx.sequence_loss = sequence_loss;
  model_.backward(ctx, state_);
}

template <class T>
double ElectraTrainer<T>::task_loss(const double* sums) const {
  return sums[0] / static_cast<double>(std::max<std::int64_t>(1, hidden_)) +
         config_.model.discriminator_weight * sums[2] /
             static_cast<double>(host_batch_.update_tokens);
}

template <class T>
ElectraReport ElectraTrainer<T>::evaluate(const EvalWindows& windows) {
  const Region region(KOKOMOE_LABEL("train::evaluate"));
  constexpr std::size_t hidden = ElectraSums::width, tokens = hidden + 1, width = tokens + 1;
  double sums[width] = {};
  const Vector<double> device = this->evaluation_sums(ElectraSums::width);
  for (int b = 0; b < windows.batches(); ++b) {
    windows.fill(b, this->communicator().rank(), host_batch_);
    mark_windows(special_, config_.seed, 0, host_batch_, host_segments_);
    masking_.hide(0, host_batch_, host_masked_);
    const StepContext ctx = this->context(host_batch_, device_batch_, false, 0);
    this->reset_arenas();
    model_.forward(ctx, input(), state_);
    model_.losses(ctx, state_, false, device);
    const double* const found = this->fetch_sums();
    for (std::size_t i = 0; i < hidden; ++i) sums[i] += found[i];
    sums[hidden] += static_cast<double>(host_masked_.rows.size());
    sums[tokens] += host_batch_.tokens;
  }
  this->communicator().all_reduce_sum(sums, width);
  const auto share = [](double part, double all) { return all > 0 ? part / all : 0.0; };
  ElectraReport report;
  report.generator_loss = share(sums[0], sums[hidden]);
  report.generator_accuracy = share(sums[1], sums[hidden]);
  report.discriminator_loss = share(sums[2], sums[tokens]);
  report.discriminator_accuracy = share(sums[3], sums[tokens]);
  report.replaced = share(sums[4], sums[tokens]);
  report.found = share(sums[5], sums[4]);
  report.tokens = static_cast<std::int64_t>(sums[tokens]);
  return report;
}

template <class T>
Evaluation ElectraTrainer<T>::evaluate_heldout(bool) {
  const ElectraReport report = evaluate(*heldout_);
  return {report.generator_loss + config_.model.discriminator_weight * report.discriminator_loss,
          {{"generator_loss", report.generator_loss},
           {"generator_accuracy", report.generator_accuracy},
           {"discriminator_loss", report.discriminator_loss},
           {"discriminator_accuracy", report.discriminator_accuracy},
           {"replaced", report.replaced},
           {"found", report.found}},
          report.tokens,
          0};
}

template <class T>
double ElectraTrainer<T>::heldout_tokens() const {
  return heldout_ ? static_cast<double>(heldout_->windows()) * config_.sequence_length : 0;
}

template <class T>
std::string ElectraTrainer<T>::data_digest() const {
  return detail::hex(corpus_->key());
}

template <class T>
std::string ElectraTrainer<T>::data_summary() const {
  std::string text = human_count(static_cast<double>(corpus_->size())) + " tokens, " +
                     human_count(static_cast<double>(config_.batch_tokens)) + " an update";
  if (heldout_) text += ", " + human_count(heldout_tokens()) + " held out";
  return text;
}

template class ElectraTrainer<float>;
template class ElectraTrainer<double>;

namespace detail {

namespace {

class ElectraTask : public TaskWith<ElectraTask, ElectraTaskConfig> {
 public:
  using TaskWith::TaskWith;

  void rehearse(const Deck& deck, DataUse) const override {
    const ElectraTaskConfig config =
        completed(config_, stand_in_vocabulary(config_.tokenizer) + special_tokens, {});
    if (config.double_precision)
      require_model<double, ElectraModel>(deck, config, config.model);
    else
      require_model<float, ElectraModel>(deck, config, config.model);
  }

  StepPlan plan(int ranks, double length, const Communicator& communicator,
                std::vector<std::string>& notes) const override {
    refuse_length(length, config_.sequence_length);
    const int vocabulary = planned_vocabulary(config_.tokenizer, communicator, notes);
    return plan_step(completed(config_, vocabulary + special_tokens, {}), ranks);
  }

  template <class T>
  std::unique_ptr<Trainer<T>> make_trainer(std::shared_ptr<const Tokenizer> tokenizer,
                                           const Communicator& communicator, DataUse use) const {
    const auto open = [&](const std::vector<std::string>& files) {
      return Corpus::open(files, *tokenizer, config_.cache_folder, communicator);
    };
    std::optional<Corpus> train, heldout;
    if (use == DataUse::training || use == DataUse::resuming) train = open(config_.train_files);
    if (use != DataUse::none && !config_.heldout_files.empty())
      heldout = open(config_.heldout_files);
    return std::make_unique<ElectraTrainer<T>>(config_, SpecialTokens(*tokenizer), communicator,
                                               std::move(train), std::move(heldout));
  }
};

}  // namespace

std::unique_ptr<Task> read_electra_task(const Deck& deck, std::vector<std::string>& notes) {
  return std::make_unique<ElectraTask>(read_electra_deck(deck, notes));
}

}  // namespace detail
}  // namespace kokomoe
