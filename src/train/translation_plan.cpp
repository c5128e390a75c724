// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/train/translation_deck.hpp"
#include "train/step_planner.hpp"

#include <algorithm>
#include <string>

namespace kokomoe {

namespace {

using detail::matrix_bytes;

/// With as many tokens as an update may have, of either side.
template <class T>
StepPlan plan_with(const TranslationConfig& config, int ranks, double length) {
  const EncoderDecoderConfig& shape = config.model;
  detail::TokenShares shares = detail::share_sequences(static_cast<double>(config.batch_tokens), 1,
                                                       config.accumulate, ranks);
  detail::make_room(shape.max_length, shares.update, shares);  // cut between pairs
  detail::StepPlanner<T> planner(config, ranks, shares);
  const EncoderDecoder<T> model(shape, planner.store());
  planner.declared();
  const detail::StackMemory<T> encoder = planner.stack(model.encoder(), length),
                               decoder = planner.stack(model.decoder(), length);
  const double tokens = planner.tokens(), d = shape.moe.d_model, vocabulary = shape.vocabulary;
  const double rows = matrix_bytes<T>(tokens, d),
               lookup = detail::lookup_scratch(tokens, vocabulary);
  // Each stack's final norm: its result and statistics; the gradient by its input.
  const double norm = shape.post_norm ? 0 : matrix_bytes<T>(tokens, d + 2);
  const double d_norm = shape.post_norm ? 0 : rows;
  detail::ActivationBytes activations;
  activations.saved = 2 * (rows + norm) + matrix_bytes<T>(tokens, vocabulary) +
                      encoder.saved(tokens) + decoder.saved(tokens, tokens) +
                      std::max(encoder.recomputed(tokens), decoder.recomputed(tokens));
  // Gradients of the encoder's result, for as long as the decoder adds to it, and of either
  // stack's.
  const double backward =
      rows + d_norm +
      std::max(rows + std::max({decoder.backward(tokens, tokens), d_norm, lookup}),
               std::max({encoder.backward(tokens), d_norm, lookup}));
  activations.scratch =
      std::max({encoder.forward(tokens), decoder.forward(tokens, tokens), backward});
  return planner.finish(count_model<T>(config, planner.store(), length, length), activations,
                        matrix_bytes<T>(shape.max_length, d), length,
                        std::to_string(shape.encoder_layers) + " + " +
                            std::to_string(shape.decoder_layers) + " layers, " +
                            detail::shape_text(shape.moe, shape.vocabulary));
}

}  // namespace

template <class T>
ModelCount count_model(const TranslationConfig& config, const ParameterStore<T>& store,
                       double source_length, double target_length) {
  const EncoderDecoderConfig& model = config.model;
  const double rows =
      detail::rows_of_token<T>(model.moe, model.moe_every, model.vocabulary, source_length);
  const double d = model.moe.d_model;
  ModelCount encoder = count_tensors<T>(store, rows, {"encoder"});
  ModelCount decoder = count_tensors<T>(store, rows, {"decoder"});
  // Queries by keys and probabilities by values; the decoder's own for the tokens up to one's own.
  encoder.part(ModelPart::attention).forward_flops += model.encoder_layers * 4 * d * source_length;
  decoder.part(ModelPart::attention).forward_flops +=
      model.decoder_layers * 4 * d * (source_length + (target_length + 1) / 2);
  decoder.part(ModelPart::head).forward_flops += 2 * d * model.vocabulary;
  return detail::with_stacks(count_tensors<T>(store, rows), {encoder, decoder});
}

StepPlan plan_step(const TranslationConfig& config, int ranks, double length) {
  const double taken = detail::planned_length(length, config.model.max_length);
  return config.double_precision ? plan_with<double>(config, ranks, taken)
                                 : plan_with<float>(config, ranks, taken);
}

template ModelCount count_model<float>(const TranslationConfig&, const ParameterStore<float>&,
                                       double, double);
template ModelCount count_model<double>(const TranslationConfig&, const ParameterStore<double>&,
                                        double, double);

}  // namespace kokomoe
