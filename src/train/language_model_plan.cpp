// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/model/decoder_lm.hpp"
#include "kokomoe/train/language_model_deck.hpp"
#include "train/step_planner.hpp"

#include <algorithm>
#include <string>

namespace kokomoe {

namespace {

using detail::matrix_bytes;

template <class T>
StepPlan plan_with(const LanguageModelConfig& config, int ranks) {
  const DecoderConfig& shape = config.model;
  detail::StepPlanner<T> planner(config, ranks,
                                 detail::share_windows(config, config.sequence_length, ranks));
  const DecoderLm<T> model(shape, planner.store());
  planner.declared();
  const detail::StackMemory<T> blocks = planner.stack(model.stack(), config.sequence_length);
  const double tokens = planner.tokens(), d = shape.moe.d_model, vocabulary = shape.vocabulary;
  const double rows = matrix_bytes<T>(tokens, d);
  // Packed operands of the head's products.
  const double head = config.layout_free ? std::max(matrix_bytes<T>(vocabulary, d),
                                                    matrix_bytes<T>(tokens, vocabulary + d))
                                         : 0;
  detail::ActivationBytes activations;
  // The embedded tokens, the final norm's result and statistics, the logits.
  activations.saved = matrix_bytes<T>(tokens, 2 * d + 2 + vocabulary) + blocks.saved(tokens) +
                      blocks.recomputed(tokens);
  const double backward = 2 * rows + std::max({blocks.backward(tokens), rows, head,
                                               detail::lookup_scratch(tokens, vocabulary)});
  activations.scratch = std::max(blocks.forward(tokens), backward);
  const double tables =
      shape.positions == Positions::rotary ? matrix_bytes<T>(shape.max_length, d / shape.heads) : 0;
  return planner.finish(
      count_model<T>(config, planner.store()), activations, tables, config.sequence_length,
      std::to_string(shape.layers) + " layers, " + detail::shape_text(shape.moe, shape.vocabulary));
}

}  // namespace

template <class T>
ModelCount count_model(const LanguageModelConfig& config, const ParameterStore<T>& store) {
  const DecoderConfig& model = config.model;
  ModelCount count =
      count_tensors<T>(store, detail::rows_of_token<T>(model.moe, model.moe_every, model.vocabulary,
                                                       config.sequence_length));
  const double d = model.moe.d_model;
  if (model.tied) count.part(ModelPart::head).forward_flops += 2 * d * model.vocabulary;
  // Queries by keys and probabilities by values, for the tokens up to one's own.
  const double keys = (config.sequence_length + 1) / 2.0;
  count.part(ModelPart::attention).forward_flops += model.layers * 4 * d * keys;
  return detail::with_stacks(count, {count});
}

StepPlan plan_step(const LanguageModelConfig& config, int ranks) {
  return config.double_precision ? plan_with<double>(config, ranks)
                                 : plan_with<float>(config, ranks);
}

template ModelCount count_model<float>(const LanguageModelConfig&, const ParameterStore<float>&);
template ModelCount count_model<double>(const LanguageModelConfig&, const ParameterStore<double>&);

}  // namespace kokomoe
