// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/train/electra_deck.hpp"
#include "kokomoe/train/sentence_deck.hpp"
#include "train/step_planner.hpp"

#include <algorithm>
#include <string>
#include <utility>

namespace kokomoe {

namespace {

using detail::matrix_bytes;

/// What Encoder takes, its embedding among it.
template <class T>
class EncoderMemory {
 public:
  EncoderMemory(const EncoderConfig& config, detail::StackMemory<T> blocks)
      : config_(config), blocks_(std::move(blocks)), d_(config.moe.d_model) {}

  /// Sums and results of the embedding, a projection, the final norm.
  double saved(double tokens) const {
    return matrix_bytes<T>(tokens, 2 * width() + 2 + (projected() ? d_ : 0) +
                                       (config_.post_norm ? 0 : d_ + 2)) +
           blocks_.saved(tokens) + blocks_.recomputed(tokens);
  }
  double forward(double tokens) const { return blocks_.forward(tokens); }
  /// Beside the gradient by its result.
  double backward(double tokens) const {
    const double norm = config_.post_norm ? 0 : matrix_bytes<T>(tokens, d_);
    const double embedded = projected() ? matrix_bytes<T>(tokens, width()) : 0;
    return norm + std::max({norm, blocks_.backward(tokens), embedded + embedding(tokens)});
  }
  double tables() const {
    return config_.positions == Positions::rotary
               ? matrix_bytes<T>(config_.max_length, d_ / config_.heads)
               : 0;
  }

 private:
  double width() const { return config_.embedding_width(); }
  bool projected() const { return width() != d_; }
  /// Gradients of its sums, marks of segments.
  double embedding(double tokens) const {
    double lookup = detail::lookup_scratch(tokens, config_.vocabulary);
    if (config_.positions == Positions::learned)
      lookup = std::max(lookup, detail::lookup_scratch(tokens, config_.max_length));
    return matrix_bytes<T>(tokens, width()) +
           std::max(matrix_bytes<T>(tokens, width()),
                    matrix_bytes<T>(tokens, config_.segments) + lookup);
  }

  EncoderConfig config_;
  detail::StackMemory<T> blocks_;
  double d_;
};

std::string encoder_text(const EncoderConfig& encoder) {
  return std::to_string(encoder.layers) + " layers, " +
         detail::shape_text(encoder.moe, encoder.vocabulary);
}

template <class T>
StepPlan plan_with(const ElectraTaskConfig& config, int ranks) {
  const EncoderConfig& large = config.model.discriminator;
  const EncoderConfig small = generator_config(config.model);
  const int length = config.sequence_length;
  detail::StepPlanner<T> planner(config, ranks, detail::share_windows(config, length, ranks));
  const ElectraModel<T> model(config.model, planner.store());
  planner.declared();
  const EncoderMemory<T> discriminator(large, planner.stack(model.discriminator().stack(), length));
  const EncoderMemory<T> generator(small, planner.stack(model.generator().stack(), length));
  const double tokens = planner.tokens(), hidden = config.mask_rate * tokens;
  const double d = large.moe.d_model, narrow = small.moe.d_model, vocabulary = large.vocabulary;
  const double rows = matrix_bytes<T>(tokens, d);
  // What the generator's head reads and gives, where tokens are hidden; their places and numbers.
  const double guesses =
      matrix_bytes<T>(hidden, narrow + 3 * d + 2 + vocabulary) + 5 * sizeof(int) * hidden;
  const double verdicts = matrix_bytes<T>(tokens, 2 * d + 1) + 2 * sizeof(int) * tokens;
  detail::ActivationBytes activations;
  activations.saved = generator.saved(tokens) + guesses + discriminator.saved(tokens) + verdicts;
  // Gradients by the encoders' results, and of the heads before them.
  const double discriminating = 2 * rows + std::max(rows, discriminator.backward(tokens));
  const double generating =
      matrix_bytes<T>(tokens, narrow) +
      std::max(matrix_bytes<T>(hidden, 3 * d + narrow), generator.backward(tokens));
  activations.scratch = std::max(
      {generator.forward(tokens), discriminator.forward(tokens), discriminating, generating});
  return planner.finish(count_model<T>(config, planner.store()), activations,
                        discriminator.tables() + generator.tables(), length,
                        encoder_text(large) + "; generator of " + std::to_string(small.layers) +
                            " layers, d_model " + std::to_string(small.moe.d_model));
}

template <class T>
StepPlan plan_with(const SentenceTaskConfig& config, int ranks, double length) {
  const EncoderConfig& shape = config.model.encoder;
  detail::TokenShares shares =
      detail::share_sequences(config.sentences, length, config.accumulate, ranks);
  const double longest = config.max_length;
  detail::make_room(longest - length, shares.micro_batch / length * longest, shares);
  detail::StepPlanner<T> planner(config, ranks, shares);
  const SentenceClassifier<T> model(config.model, planner.store());
  planner.declared();
  const EncoderMemory<T> encoder(shape, planner.stack(model.encoder().stack(), length));
  const double tokens = planner.tokens(), sentences = tokens / length, d = shape.moe.d_model;
  detail::ActivationBytes activations;
  activations.saved =
      encoder.saved(tokens) + matrix_bytes<T>(sentences, 3 * d + config.model.classes);
  const double backward = matrix_bytes<T>(tokens, d) +
                          std::max(matrix_bytes<T>(sentences, 3 * d), encoder.backward(tokens));
  activations.scratch = std::max(encoder.forward(tokens), backward);
  return planner.finish(count_model<T>(config, planner.store(), length), activations,
                        encoder.tables(), length, encoder_text(shape));
}

template <class T>
double rows_of_token(const EncoderConfig& encoder, double length) {
  return detail::rows_of_token<T>(encoder.moe, encoder.moe_every, encoder.vocabulary, length);
}

/// Queries by keys and probabilities by values, each token by its whole sequence.
void add_attention(const EncoderConfig& encoder, double length, ModelCount& count) {
  count.part(ModelPart::attention).forward_flops +=
      4.0 * encoder.layers * encoder.moe.d_model * length;
}

}  // namespace

template <class T>
ModelCount count_model(const ElectraTaskConfig& config, const ParameterStore<T>& store) {
  const EncoderConfig& large = config.model.discriminator;
  const double rows = rows_of_token<T>(large, config.sequence_length);
  const EncoderConfig small = generator_config(config.model);
  ModelCount generator = count_tensors<T>(store, rows, {"generator.encoder"});
  ModelCount discriminator = count_tensors<T>(store, rows, {"discriminator"});
  add_attention(small, config.sequence_length, generator);
  add_attention(large, config.sequence_length, discriminator);
  // Of hidden tokens alone.
  generator.part(ModelPart::head).forward_flops +=
      2.0 * config.mask_rate * large.moe.d_model * (small.moe.d_model + large.vocabulary);
  return detail::with_stacks(count_tensors<T>(store, rows), {generator, discriminator});
}

template <class T>
ModelCount count_model(const SentenceTaskConfig& config, const ParameterStore<T>& store,
                       double length) {
  const double rows = rows_of_token<T>(config.model.encoder, length);
  ModelCount encoder = count_tensors<T>(store, rows, {"embedding", "discriminator"});
  const ModelCount head = count_tensors<T>(store, rows, {"sentence"});
  add_attention(config.model.encoder, length, encoder);
  // The head reads the first token alone.
  encoder.part(ModelPart::head).forward_flops += head.total().forward_flops / length;
  return detail::with_stacks(count_tensors<T>(store, rows), {encoder});
}

StepPlan plan_step(const ElectraTaskConfig& config, int ranks) {
  return config.double_precision ? plan_with<double>(config, ranks)
                                 : plan_with<float>(config, ranks);
}

StepPlan plan_step(const SentenceTaskConfig& config, int ranks, double length) {
  const double taken = detail::planned_length(length, config.max_length);
  return config.double_precision ? plan_with<double>(config, ranks, taken)
                                 : plan_with<float>(config, ranks, taken);
}

#define KOKOMOE_INSTANTIATE(T)                                                            \
  template ModelCount count_model<T>(const ElectraTaskConfig&, const ParameterStore<T>&); \
  template ModelCount count_model<T>(const SentenceTaskConfig&, const ParameterStore<T>&, double);
KOKOMOE_INSTANTIATE(float)
KOKOMOE_INSTANTIATE(double)
#undef KOKOMOE_INSTANTIATE

}  // namespace kokomoe
