// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/model/sentence_classifier.hpp"

#include "kokomoe/core/column_sum.hpp"
#include "kokomoe/core/error.hpp"
#include "kokomoe/nn/cross_entropy.hpp"
#include "kokomoe/nn/dropout.hpp"
#include "kokomoe/parameters/products.hpp"

namespace kokomoe {

namespace {

/// Of the head's dropout, beside those of the first block.
constexpr int head_lane = 4;

const SentenceClassifierConfig& checked(const SentenceClassifierConfig& config) {
  if (config.classes < 1)
    throw InputError("a sentence is told one of " + std::to_string(config.classes) + " classes");
  if (!(config.head_dropout >= 0 && config.head_dropout < 1))
    throw InputError("a dropout of " + std::to_string(config.head_dropout) + " is not in [0, 1)");
  return config;
}

void require_sums(const Vector<double>& sums) {
  const auto width = static_cast<std::size_t>(SentenceSums::width);
  if (sums.extent(0) != width)
    fail_shape("SentenceClassifier", "sums", sums.extent(0), 1, width, 1);
}

/// The first and third of cross-entropy's sums to their places.
void keep_sums(const ExecutionSpace& space, const Vector<const double>& from,
               const Vector<double>& to) {
  Kokkos::parallel_for(
      KOKOMOE_LABEL("model::sentence::sums"), Kokkos::RangePolicy<ExecutionSpace>(space, 0, 1),
      KOKKOS_LAMBDA(const int) {
        to(0) = from(0);
        to(1) = from(2);
      });
}

/// each(b, :) = (squared error, 0); predictions become 2 scale (error) with `gradient`.
template <class T>
void squared_errors(const ExecutionSpace& space, const Matrix<T>& predictions,
                    const Vector<const double>& numbers, double scale, bool gradient,
                    const Matrix<double>& each) {
  Kokkos::parallel_for(
      KOKOMOE_LABEL("model::sentence::squared_error"),
      Kokkos::RangePolicy<ExecutionSpace>(space, 0, static_cast<int>(numbers.extent(0))),
      KOKKOS_LAMBDA(const int b) {
        const double error = static_cast<double>(predictions(b, 0)) - numbers(b);
        each(b, 0) = error * error;
        each(b, 1) = 0;
        if (gradient) predictions(b, 0) = static_cast<T>(2 * scale * error);
      });
}

void first_column(const ExecutionSpace& space, const Matrix<const double>& each,
                  const Vector<double>& out) {
  Kokkos::parallel_for(
      KOKOMOE_LABEL("model::sentence::each"),
      Kokkos::RangePolicy<ExecutionSpace>(space, 0, static_cast<int>(out.extent(0))),
      KOKKOS_LAMBDA(const int b) { out(b) = each(b, 0); });
}

}  // namespace

template <class T>
SentenceClassifier<T>::SentenceClassifier(const SentenceClassifierConfig& config,
                                          ParameterStore<T>& store)
    : config_(checked(config)),
      encoder_(config.encoder, store, "discriminator.encoder"),
      dense_(config.encoder.moe.d_model, config.encoder.moe.d_model, store, "sentence.dense"),
      out_(config.encoder.moe.d_model, config.classes, true, store, "sentence.out") {}

template <class T>
Matrix<T> SentenceClassifier<T>::forward(const StepContext& ctx, const Vector<const int>& segments,
                                         Saved& saved, const Matrix<double>& statistics,
                                         const std::vector<Routing<T>>& replay) const {
  const Region region(KOKOMOE_LABEL("model::sentence"));
  const Matrix<T> features = encoder_.forward(ctx, segments, saved.encoder, statistics, replay);
  saved.first = select_first_tokens(ctx);
  const StepContext head = with_tokens(ctx, saved.first.tokens);
  const auto rows = [&](std::size_t width) {
    return ctx.saved->template matrix<T>(static_cast<std::size_t>(ctx.tokens.sequences), width);
  };
  const Matrix<T> first = rows(features.extent(1));
  gather_rows<T>(ctx.space, features, saved.first.rows, first);
  saved.active = rows(features.extent(1));
  dense_.forward(head, first, saved.active, saved.dense);
  dropout<T>(head, config_.head_dropout, config_.encoder.first_layer, head_lane, saved.active,
             saved.active, false);
  saved.predictions = rows(static_cast<std::size_t>(config_.classes));
  out_.forward(head, saved.active, saved.predictions);
  return saved.predictions;
}

template <class T>
void SentenceClassifier<T>::classification_loss(const StepContext& ctx, Saved& saved,
                                                const Vector<const int>& labels, bool gradient,
                                                const Vector<double>& sums,
                                                const Vector<double>& sequence_loss) const {
  if (config_.classes < 2) fail("SentenceClassifier", "it predicts numbers, not classes");
  require_sums(sums);
  ArenaScope scope(*ctx.scratch);
  const Vector<double> all = ctx.scratch->vector<double>(CrossEntropySums::width);
  cross_entropy<T>(with_tokens(ctx, saved.first.tokens), saved.predictions, labels, 0, gradient,
                   all, sequence_loss);
  keep_sums(ctx.space, all, sums);
}

template <class T>
void SentenceClassifier<T>::regression_loss(const StepContext& ctx, Saved& saved,
                                            const Vector<const double>& numbers, bool gradient,
                                            const Vector<double>& sums,
                                            const Vector<double>& sequence_loss) const {
  if (config_.classes != 1) fail("SentenceClassifier", "it predicts classes, not numbers");
  require_sums(sums);
  const auto sentences = static_cast<std::size_t>(ctx.tokens.sequences);
  if (numbers.extent(0) != sentences)
    fail_shape("SentenceClassifier", "numbers", numbers.extent(0), 1, sentences, 1);
  if (sequence_loss.extent(0) != 0 && sequence_loss.extent(0) != sentences)
    fail_shape("SentenceClassifier", "sequence_loss", sequence_loss.extent(0), 1, sentences, 1);
  ArenaScope scope(*ctx.scratch);
  const Matrix<double> each = ctx.scratch->matrix<double>(sentences, SentenceSums::width);
  squared_errors<T>(ctx.space, saved.predictions, numbers, ctx.loss_scale, gradient, each);
  // An error of a thousand: no loss that a model recovers from.
  if (ctx.layout_free)
    grid_column_sum<double>(ctx.space, *ctx.scratch, each,
                            segments_of(with_tokens(ctx, saved.first.tokens)),
                            exact_sum::Grid(20, ctx.update_tokens), sums);
  else
    column_sum<double>(ctx.space, *ctx.scratch, each, Matrix<const double>(),
                       Vector<const double>(), 0.0, sums);
  first_column(ctx.space, each, sequence_loss);
}

template <class T>
void SentenceClassifier<T>::backward(const StepContext& ctx, Saved& saved) const {
  const Region region(KOKOMOE_LABEL("model::sentence_backward"));
  ArenaScope scope(*ctx.scratch);
  const StepContext head = with_tokens(ctx, saved.first.tokens);
  const Matrix<const T> features = saved.encoder.features;
  const Matrix<T> d_features =
      ctx.scratch->template matrix<T>(features.extent(0), features.extent(1));
  {
    ArenaScope head_scope(*ctx.scratch);
    const auto rows = [&]() {
      return ctx.scratch->template matrix<T>(saved.active.extent(0), saved.active.extent(1));
    };
    const Matrix<T> d_active = rows(), d_first = rows();
    out_.backward(head, saved.active, saved.predictions, d_active);
    dropout<T>(head, config_.head_dropout, config_.encoder.first_layer, head_lane, d_active,
               d_active, false);
    dense_.backward(head, saved.dense, d_active, d_first);
    scatter_rows<T>(ctx.space, d_first, saved.first.rows, d_features);
  }
  encoder_.backward(ctx, saved.encoder, d_features);
}

template class SentenceClassifier<float>;
template class SentenceClassifier<double>;

}  // namespace kokomoe
