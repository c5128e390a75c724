// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/error.hpp"
#include "kokomoe/data/corpus.hpp"
#include "kokomoe/io/checkpoint.hpp"
#include "kokomoe/study/fidelity.hpp"
#include "kokomoe/train/training_run.hpp"
#include "study/model_study.hpp"
#include "study/statistics.hpp"

#include <cmath>

namespace kokomoe {

using namespace study;

namespace {

using Vectors = std::vector<std::vector<double>>;

std::vector<double> mean_without(const Vectors& values, std::size_t left_out) {
  std::vector<double> mean(values[0].size(), 0);
  const double count = static_cast<double>(values.size()) - (left_out < values.size() ? 1 : 0);
  for (std::size_t s = 0; s < values.size(); ++s) {
    if (s == left_out) continue;
    for (std::size_t i = 0; i < mean.size(); ++i) mean[i] += values[s][i] / count;
  }
  return mean;
}

/// The error of the means, and its standard error by jackknife over the samples.
GradientError compare_means(const Vectors& estimate, const Vectors& exact, double& deviation) {
  const std::size_t samples = estimate.size();
  std::vector<double> errors;
  double mean = 0;
  for (std::size_t s = 0; s < samples; ++s) {
    errors.push_back(compare_gradients(mean_without(estimate, s), mean_without(exact, s)).relative);
    mean += errors.back() / static_cast<double>(samples);
  }
  double sum = 0;
  for (const double error : errors) sum += (error - mean) * (error - mean);
  deviation = std::sqrt(sum * static_cast<double>(samples - 1) / static_cast<double>(samples));
  return compare_gradients(mean_without(estimate, samples), mean_without(exact, samples));
}

void measure(const FidelityConfig& config, const LanguageModelConfig& model,
             const ModelParameters& parameters, const HostBatch& sequence, std::int64_t step,
             const FidelityProgress& progress, std::vector<FidelityResult>& results) {
  for (const std::string& name : config.estimators)
    for (const bool exception : {false, true}) {
      if (exception && !has_argmax_exception(name)) continue;
      const EstimatorForm form = estimator_form(name, exception);
      ModelStudy study(config, model, form, parameters, sequence);
      // Where s is always 1 the exception changes nothing.
      if (exception && study.info().scale.low_chance == 0) continue;
      const std::size_t layers = study.layers().size();
      // The last row: all layers together.
      std::vector<Vectors> estimate(layers + 1), exact(layers + 1), redrawn(layers + 1);
      for (int s = 0; s < config.samples; ++s) {
        const ModelStudy::Sample sample = study.sample(s);
        for (auto* all : {&estimate[layers], &exact[layers], &redrawn[layers]}) all->emplace_back();
        for (std::size_t l = 0; l < layers; ++l) {
          const auto keep = [&](std::vector<Vectors>& into, const std::vector<double>& values) {
            into[l].push_back(values);
            auto& all = into[layers].back();
            all.insert(all.end(), values.begin(), values.end());
          };
          keep(estimate, sample.estimate[l]);
          keep(exact, sample.exact[l]);
          keep(redrawn, sample.redrawn[l]);
        }
      }
      for (std::size_t l = 0; l <= layers; ++l) {
        FidelityResult result;
        result.estimator = name;
        result.objective = study.info().objective == Objective::scaled ? "A" : "B";
        result.layout = "model";
        result.sites = sequence.tokens * static_cast<int>(l < layers ? 1 : layers);
        result.argmax_exception = exception;
        result.step = step;
        if (l < layers) result.layer = study.layers()[l];
        double deviation = 0;
        const GradientError error = compare_means(estimate[l], exact[l], deviation);
        result.relative_error = error.relative;
        result.cosine = error.cosine;
        result.scaled_error = error.scaled;
        result.relative_error_deviation = deviation;
        result.redrawn_error = compare_means(estimate[l], redrawn[l], deviation).relative;
        result.redrawn_error_deviation = deviation;
        results.push_back(result);
      }
      if (progress) progress(results, layers + 1);
    }
}

template <class T>
void study_checkpoint(const FidelityConfig& config, const std::string& checkpoint,
                      const Communicator& communicator, const FidelityProgress& progress,
                      std::vector<FidelityResult>& results) {
  const LoadedModel<T> loaded = load_language_model<T>(checkpoint, config.overrides, communicator);
  const LanguageModelConfig& model = loaded.model->config();
  const Corpus corpus =
      Corpus::open(model.train_files, *loaded.tokenizer, model.cache_folder, communicator);
  HostBatch sequence;
  LmBatches(corpus, config.seed, config.tokens, config.tokens).fill(0, 0, 0, 1, sequence);
  measure(config, model, ModelParameters(loaded.model->store()), sequence, loaded.step, progress,
          results);
}

template <class T>
void study_run(const FidelityConfig& config, LanguageModelConfig model,
               const Communicator& communicator, const FidelityProgress& progress,
               std::vector<FidelityResult>& results) {
  const auto tokenizer = make_tokenizer(model.tokenizer, communicator);
  model.model.vocabulary = tokenizer->vocabulary();
  const Corpus corpus =
      Corpus::open(model.train_files, *tokenizer, model.cache_folder, communicator);
  HostBatch sequence;
  LmBatches(corpus, config.seed, config.tokens, config.tokens).fill(0, 0, 0, 1, sequence);
  LanguageModel<T> run(model, communicator, corpus);
  for (std::int64_t step = 0; step <= config.steps; ++step) {
    if (step % config.every == 0)
      measure(config, model, ModelParameters(run.store()), sequence, step, progress, results);
    if (step < config.steps) run.update(step);
  }
}

}  // namespace

std::vector<FidelityResult> fidelity_training(const FidelityConfig& config,
                                              const Communicator& communicator,
                                              const FidelityProgress& progress) {
  std::vector<FidelityResult> results;
  for (const std::string& checkpoint : config.checkpoints) {
    const std::string step = resolve_checkpoint(checkpoint, communicator);
    const Deck deck = deck_of_checkpoint(step, config.overrides, communicator);
    if (deck.text("run/precision") == "double")
      study_checkpoint<double>(config, step, communicator, progress, results);
    else
      study_checkpoint<float>(config, step, communicator, progress, results);
  }
  if (!config.deck.empty()) {
    std::vector<std::string> notes;
    const LanguageModelConfig model =
        read_language_model_deck(load_language_model_deck(config.deck, config.overrides), notes);
    if (model.double_precision)
      study_run<double>(config, model, communicator, progress, results);
    else
      study_run<float>(config, model, communicator, progress, results);
  }
  return results;
}

}  // namespace kokomoe
