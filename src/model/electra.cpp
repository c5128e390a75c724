// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/model/electra.hpp"

#include "kokomoe/core/clear.hpp"
#include "kokomoe/core/error.hpp"
#include "kokomoe/core/row_kernels.hpp"
#include "kokomoe/core/rows_of.hpp"
#include "kokomoe/nn/binary_cross_entropy.hpp"
#include "kokomoe/nn/cross_entropy.hpp"
#include "kokomoe/nn/sample_classes.hpp"
#include "kokomoe/parameters/products.hpp"

#include <algorithm>
#include <cmath>

namespace kokomoe {

namespace {

const ElectraConfig& checked(const ElectraConfig& config) {
  const EncoderConfig& d = config.discriminator;
  if (d.embedding_width() != d.moe.d_model)
    throw InputError("ELECTRA: the embedding has the discriminator's " +
                     std::to_string(d.moe.d_model) + " channels, not " +
                     std::to_string(d.embedding));
  if (!(config.generator_width > 0 && config.generator_width <= 1))
    throw InputError("ELECTRA: the generator's width " + std::to_string(config.generator_width) +
                     " is no share of the discriminator's: it must lie in (0, 1]");
  if (config.generator_layers < 0)
    throw InputError("ELECTRA: a generator of " + std::to_string(config.generator_layers) +
                     " layers");
  if (!(config.temperature > 0) || !std::isfinite(config.temperature))
    throw InputError("ELECTRA: the generator's temperature must be positive, not " +
                     std::to_string(config.temperature));
  if (!(config.discriminator_weight >= 0) || !std::isfinite(config.discriminator_weight))
    throw InputError("ELECTRA: the discriminator's weight must not be negative, but is " +
                     std::to_string(config.discriminator_weight));
  return config;
}

/// The text with the replacements in it, and where it is another one.
void corrupt(const StepContext& ctx, const Vector<const int>& rows,
             const Vector<const int>& replacements, const Vector<int>& corrupted,
             const Vector<int>& replaced) {
  using Range = Kokkos::RangePolicy<ExecutionSpace>;
  const Vector<const int> ids = ctx.tokens.ids;
  Kokkos::parallel_for(
      KOKOMOE_LABEL("model::electra::text"), Range(ctx.space, 0, ctx.tokens.tokens),
      KOKKOS_LAMBDA(const int t) {
        corrupted(t) = ids(t);
        replaced(t) = 0;
      });
  Kokkos::parallel_for(
      KOKOMOE_LABEL("model::electra::corrupt"),
      Range(ctx.space, 0, static_cast<int>(rows.extent(0))), KOKKOS_LAMBDA(const int i) {
        const int t = rows(i), id = replacements(i);
        corrupted(t) = id;
        replaced(t) = id != ids(t) ? 1 : 0;
      });
}

template <class T>
void add_bias(const ExecutionSpace& space, const Vector<const T>& bias, const Matrix<T>& y) {
  const int columns = static_cast<int>(y.extent(1));
  for_each_row(
      KOKOMOE_LABEL("model::electra::bias"), space, static_cast<int>(y.extent(0)),
      KOKKOS_LAMBDA(const Row& row) {
        T* const to = &y(row.index(), 0);
        row.each(columns, [&](const int j) { to[j] += bias(j); });
      });
}

/// The first and third of cross-entropy's sums to their places.
void keep_sums(const ExecutionSpace& space, const Vector<const double>& from,
               const Vector<double>& to) {
  Kokkos::parallel_for(
      KOKOMOE_LABEL("model::electra::sums"), Kokkos::RangePolicy<ExecutionSpace>(space, 0, 1),
      KOKKOS_LAMBDA(const int) {
        to(0) = from(0);
        to(1) = from(2);
      });
}

void scale(const ExecutionSpace& space, double factor, const Vector<double>& x) {
  Kokkos::parallel_for(
      KOKOMOE_LABEL("model::electra::scale"),
      Kokkos::RangePolicy<ExecutionSpace>(space, 0, static_cast<int>(x.extent(0))),
      KOKKOS_LAMBDA(const int b) { x(b) *= factor; });
}

StepContext with_ids(const StepContext& ctx, const Vector<const int>& ids) {
  StepContext other = ctx;
  other.tokens.ids = ids;
  return other;
}

}  // namespace

EncoderConfig generator_config(const ElectraConfig& config) {
  const auto share = [&](int size) {
    return std::max(1, static_cast<int>(std::lround(config.generator_width * size)));
  };
  EncoderConfig generator = config.discriminator;
  generator.embedding = config.discriminator.moe.d_model;
  generator.moe.d_model = share(config.discriminator.moe.d_model);
  generator.moe.d_hidden = share(config.discriminator.moe.d_hidden);
  generator.heads = share(config.discriminator.heads);
  if (config.generator_layers > 0) generator.layers = config.generator_layers;
  generator.moe_every = 0;
  // The discriminator's blocks count as those of an encoder alone, so that what its routers draw
  // once for a layer is the same in a model that takes over its parameters.
  generator.first_layer = config.discriminator.first_layer + config.discriminator.layers;
  return generator;
}

template <class T>
ElectraModel<T>::ElectraModel(const ElectraConfig& config, ParameterStore<T>& store)
    : config_(checked(config)),
      store_(&store),
      discriminator_(config.discriminator, store, "discriminator.encoder"),
      generator_(generator_config(config), store, "generator.encoder", discriminator_.embedding()),
      generator_dense_(generator_.config().moe.d_model, discriminator_.embedding()->width(), store,
                       "generator.dense"),
      generator_norm_(config.discriminator.norm, discriminator_.embedding()->width(), store,
                      "generator.norm"),
      discriminator_dense_(config.discriminator.moe.d_model, config.discriminator.moe.d_model,
                           store, "discriminator.dense"),
      discriminator_out_(config.discriminator.moe.d_model, 1, true, store, "discriminator.out") {
  generator_bias_ = store.add({"generator.bias",
                               {static_cast<std::size_t>(config.discriminator.vocabulary)},
                               Initializer::constant(0),
                               false,
                               false,
                               false,
                               {"vocabulary"}});
}

template <class T>
void ElectraModel<T>::generate(const StepContext& ctx, const ElectraInput& input,
                               Saved& saved) const {
  const Region region(KOKOMOE_LABEL("model::electra::generate"));
  const std::size_t masked = input.rows.extent(0);
  const auto rows = [&](std::size_t width) { return ctx.saved->template matrix<T>(masked, width); };
  const Matrix<T> features =
      generator_.forward(with_ids(ctx, input.masked_ids), input.segments, saved.generator);
  const Region head_region(KOKOMOE_LABEL("model::head"));
  saved.masked = select_tokens(ctx, input.rows);
  const StepContext head = with_tokens(ctx, saved.masked.tokens);
  const auto width = static_cast<std::size_t>(discriminator_.embedding()->width());
  const Matrix<T> picked = rows(features.extent(1)), active = rows(width);
  gather_rows<T>(ctx.space, features, input.rows, picked);
  generator_dense_.forward(head, picked, active, saved.generator_dense);
  saved.guesses = rows(width);
  generator_norm_.forward(head, active, saved.guesses, saved.generator_norm);
  saved.generator_logits = rows(static_cast<std::size_t>(config_.discriminator.vocabulary));
  multiply<T>(head, Transpose::yes, saved.guesses,
              store_->value(discriminator_.embedding()->handle()), false, saved.generator_logits);
  add_bias<T>(ctx.space, store_->value_vector(generator_bias_), saved.generator_logits);
}

template <class T>
void ElectraModel<T>::discriminate(const StepContext& ctx, const ElectraInput& input, Saved& saved,
                                   const Matrix<double>& statistics,
                                   const std::vector<Routing<T>>& replay) const {
  const Region region(KOKOMOE_LABEL("model::electra::discriminate"));
  const Matrix<T> features = discriminator_.forward(with_ids(ctx, saved.corrupted), input.segments,
                                                    saved.discriminator, statistics, replay);
  saved.verdicts = ctx.saved->template matrix<T>(features.extent(0), features.extent(1));
  discriminator_dense_.forward(ctx, features, saved.verdicts, saved.discriminator_dense);
  saved.discriminator_logits = ctx.saved->template matrix<T>(features.extent(0), 1);
  discriminator_out_.forward(ctx, saved.verdicts, saved.discriminator_logits);
}

template <class T>
void ElectraModel<T>::forward(const StepContext& ctx, const ElectraInput& input, Saved& saved,
                              const Matrix<double>& statistics,
                              const std::vector<Routing<T>>& replay) const {
  const Region region(KOKOMOE_LABEL("model::electra"));
  const auto tokens = static_cast<std::size_t>(ctx.tokens.tokens);
  const std::size_t masked = input.rows.extent(0), given = input.replacements.extent(0);
  if (input.masked_ids.extent(0) != tokens)
    fail_shape("ElectraModel", "masked_ids", input.masked_ids.extent(0), 1, tokens, 1);
  if (given != 0 && given != masked)
    fail_shape("ElectraModel", "replacements", given, 1, masked, 1);
  saved.masked_ids = input.masked_ids;
  generate(ctx, input, saved);
  saved.replacements = input.replacements;
  if (given == 0) {
    const Vector<int> drawn = ctx.saved->vector<int>(masked);
    sample_classes<T>(with_tokens(ctx, saved.masked.tokens), Purpose::replacement,
                      config_.temperature, saved.generator_logits, drawn);
    saved.replacements = drawn;
  }
  saved.corrupted = ctx.saved->vector<int>(tokens);
  saved.replaced = ctx.saved->vector<int>(tokens);
  corrupt(ctx, input.rows, saved.replacements, saved.corrupted, saved.replaced);
  discriminate(ctx, input, saved, statistics, replay);
}

template <class T>
void ElectraModel<T>::losses(const StepContext& ctx, Saved& saved, bool gradient,
                             const Vector<double>& sums,
                             const Vector<double>& sequence_loss) const {
  const auto width = static_cast<std::size_t>(ElectraSums::width);
  if (sums.extent(0) != width)
    fail_shape("ElectraModel::losses", "sums", sums.extent(0), 1, width, 1);
  ArenaScope scope(*ctx.scratch);
  const Vector<double> generator = ctx.scratch->vector<double>(CrossEntropySums::width);
  const StepContext head = with_tokens(ctx, saved.masked.tokens);
  cross_entropy<T>(head, saved.generator_logits, head.tokens.targets, 0, gradient, generator);
  keep_sums(ctx.space, generator, sums);
  const double weight = config_.discriminator_weight / ctx.update_tokens;
  binary_cross_entropy<T>(ctx, saved.discriminator_logits, saved.replaced, weight, gradient,
                          rows_of(sums, 2, width), sequence_loss);
  if (sequence_loss.extent(0) != 0) scale(ctx.space, weight / ctx.loss_scale, sequence_loss);
}

template <class T>
void ElectraModel<T>::discriminator_backward(const StepContext& ctx, Saved& saved) const {
  const Region region(KOKOMOE_LABEL("model::electra::discriminator_backward"));
  ArenaScope scope(*ctx.scratch);
  const auto rows = [&]() {
    return ctx.scratch->template matrix<T>(saved.verdicts.extent(0), saved.verdicts.extent(1));
  };
  const Matrix<T> d_verdicts = rows(), d_features = rows();
  discriminator_out_.backward(ctx, saved.verdicts, saved.discriminator_logits, d_verdicts);
  discriminator_dense_.backward(ctx, saved.discriminator_dense, d_verdicts, d_features);
  discriminator_.backward(with_ids(ctx, saved.corrupted), saved.discriminator, d_features);
}

template <class T>
void ElectraModel<T>::generator_backward(const StepContext& ctx, Saved& saved) const {
  const Region region(KOKOMOE_LABEL("model::electra::generator_backward"));
  ArenaScope scope(*ctx.scratch);
  const Matrix<const T> d_logits = saved.generator_logits;
  const std::size_t masked = saved.guesses.extent(0), width = saved.guesses.extent(1);
  const Matrix<const T> features = saved.generator.features;
  const auto rows = [&](std::size_t count, std::size_t columns) {
    return ctx.scratch->template matrix<T>(count, columns);
  };
  const Matrix<T> d_features = rows(features.extent(0), features.extent(1));
  {
    ArenaScope head_scope(*ctx.scratch);
    const Region head_region(KOKOMOE_LABEL("model::head_backward"));
    const StepContext head = with_tokens(ctx, saved.masked.tokens);
    const ParameterHandle table = discriminator_.embedding()->handle();
    const Matrix<T> d_guesses = rows(masked, width), d_active = rows(masked, width),
                    d_picked = rows(masked, features.extent(1));
    add_weight_gradient<T>(head, d_logits, saved.guesses, *store_, table);
    add_column_gradient<T>(head, d_logits, Matrix<const T>(), *store_, generator_bias_);
    multiply<T>(head, Transpose::no, d_logits, store_->value(table), false, d_guesses);
    clear(ctx.space, d_active);
    generator_norm_.backward(head, saved.generator_norm, d_guesses, d_active);
    generator_dense_.backward(head, saved.generator_dense, d_active, d_picked);
    scatter_rows<T>(ctx.space, d_picked, saved.masked.rows, d_features);
  }
  generator_.backward(with_ids(ctx, saved.masked_ids), saved.generator, d_features);
}

template <class T>
void ElectraModel<T>::backward(const StepContext& ctx, Saved& saved) const {
  const Region region(KOKOMOE_LABEL("model::electra_backward"));
  discriminator_backward(ctx, saved);
  generator_backward(ctx, saved);
}

template class ElectraModel<float>;
template class ElectraModel<double>;

}  // namespace kokomoe
