// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/error.hpp"
#include "kokomoe/data/corpus.hpp"
#include "kokomoe/io/checkpoint.hpp"
#include "kokomoe/model/decoder_lm.hpp"
#include "kokomoe/nn/cross_entropy.hpp"
#include "kokomoe/study/fidelity.hpp"
#include "kokomoe/train/training_run.hpp"
#include "study/host_copies.hpp"
#include "study/statistics.hpp"

#include <algorithm>
#include <cmath>

namespace kokomoe {

using namespace study;

namespace {

/// Tokens of counterfactual sequences that go through the model at once.
constexpr std::size_t forward_tokens = 8192;
/// Half the step of the difference by s in f(s p E): errors of its square.
constexpr double scale_step = 1e-3;

/// A model's parameters as host arrays in double, by name.
struct Parameters {
  std::vector<std::pair<std::string, std::vector<double>>> tensors;

  template <class T>
  explicit Parameters(const ParameterStore<T>& store) {
    for (std::size_t i = 0; i < store.entries().size(); ++i) {
      const auto& entry = store.entries()[i];
      if (entry.size == 0) continue;
      const std::vector<T> values = to_host(store.value_vector({static_cast<int>(i)}));
      tensors.emplace_back(entry.spec.name, std::vector<double>(values.begin(), values.end()));
    }
  }
};

/// One recorded layer on the host.
struct HostRouting {
  std::vector<int> expert;
  std::vector<double> scale, probability;
  std::vector<unsigned char> kept;
  int slots_per_token = 1;
};

/// A language model in double with one of the estimators as its router, and one short sequence.
class ModelStudy {
 public:
  ModelStudy(const FidelityConfig& study, const LanguageModelConfig& config,
             const EstimatorForm& form, const Parameters& parameters, const HostBatch& sequence)
      : config_(study_config(study, config, form)),
        model_(config_, store_),
        seed_(study.seed),
        sequence_(sequence) {
    store_.allocate(space_, 1);
    std::size_t found = 0, wanted = 0;
    for (const auto& [name, values] : parameters.tensors) {
      const ParameterHandle handle = store_.find(name);
      if (!handle.valid() || store_.entry(handle).spec.state) continue;
      to_device(store_.value_vector(handle), values);
      ++found;
    }
    for (const auto& entry : store_.entries())
      wanted += entry.spec.state || entry.size == 0 ? 0 : 1;
    if (found != wanted)
      throw InputError("router \"" + config.model.moe.router +
                       "\" has other parameters than a sampled gate: its model cannot be studied");
    for (std::size_t i = 0; i < model_.blocks().size(); ++i)
      if (model_.blocks()[i].moe() != nullptr) layers_.push_back(static_cast<int>(i));
    if (layers_.empty()) throw InputError("the model has no MoE layer");
    info_ = model_.blocks()[static_cast<std::size_t>(layers_[0])].moe()->router().estimator();
  }

  const std::vector<int>& layers() const { return layers_; }
  const EstimatorInfo& info() const { return info_; }

  /// Gradients (layer, E d) of the routers' weights for one draw of everything: the estimator's,
  /// the exact one with all other choices replayed, and the exact one with the later layers' drawn
  /// again.
  struct Sample {
    std::vector<std::vector<double>> estimate, exact, redrawn;
  };
  Sample sample(int number) {
    Sample result;
    record(number, result.estimate);
    for (std::size_t l = 0; l < layers_.size(); ++l) {
      result.exact.push_back(exact(l, number, false));
      result.redrawn.push_back(l + 1 < layers_.size() ? exact(l, number, true)
                                                      : result.exact.back());
    }
    return result;
  }

 private:
  static DecoderConfig study_config(const FidelityConfig& study, const LanguageModelConfig& config,
                                    const EstimatorForm& form) {
    DecoderConfig model = config.model;
    if (model.moe.k != 1)
      throw InputError("fidelity in training needs a model with moe/k = 1, not " +
                       std::to_string(model.moe.k));
    // Deck options hold what was given alone: the router's own defaults count too.
    const RouterOptions trained =
        model.moe.options.completed(model.moe.router, router_info(model.moe.router).options);
    model.moe.router = form.router;
    model.moe.options = form.options;
    for (const char* option : {"mask_eps", "mask"}) {
      const auto known = trained.values().find(option);
      if (study.keep_mask && known != trained.values().end() &&
          form.options.values().count("mask_eps") != 0)
        model.moe.options.set(option, known->second);
    }
    // What others drop must not change with one token's choice.
    model.moe.capacity_factor = 0;
    model.moe.balance = model.moe.z_loss = 0;
    model.dropout = model.attention_dropout = 0;
    // Differences by small steps are of the weights themselves.
    model.moe.round_weights = false;
    return model;
  }

  StepContext context(const HostBatch& batch, DeviceBatch& device, std::uint32_t replica) {
    return {.space = space_,
            .communicator = &alone_,
            .saved = &saved_,
            .scratch = &scratch_,
            .tokens = kokomoe::to_device(space_, batch, device),
            .seed = seed_,
            .step = 0,
            .replica = replica,
            .training = true,
            .update_tokens = static_cast<double>(batch.tokens),
            .loss_scale = 1.0 / static_cast<double>(sequence_.tokens),
            .sequence_loss = {}};
  }

  /// Draws everything, keeps routings and inputs, and gives the estimator's gradients.
  void record(int number, std::vector<std::vector<double>>& estimate) {
    saved_.reset();
    scratch_.reset();
    StepContext ctx = context(sequence_, device_, static_cast<std::uint32_t>(number));
    const Matrix<double> logits = model_.forward(ctx, state_);
    routings_.clear();
    inputs_.clear();
    for (const int block : layers_) {
      const auto& saved = state_.blocks[static_cast<std::size_t>(block)].moe;
      routings_.push_back({to_host(saved.routing.expert), to_host(saved.routing.scale),
                           to_host(saved.routing.probability), to_host(saved.routing.kept),
                           saved.routing.slots_per_token});
      inputs_.push_back(to_host(saved.x));
    }
    const std::vector<double> loss = losses(logits, sequence_.targets, 1);
    if (info_.needs_sequence_loss) {
      // As in training: the sum over the sequence, before the divisor.
      ctx.sequence_loss =
          device_copy(std::vector<double>{loss[0] * static_cast<double>(sequence_.tokens)});
    }
    const Vector<double> sums("kokomoe::study::sums", CrossEntropySums::width);
    cross_entropy<double>(ctx, logits, ctx.tokens.targets, 0, true, sums);
    store_.begin_update();
    model_.backward(ctx, state_, logits);
    store_.finish_gradients(space_);
    Kokkos::fence("kokomoe::study::record");
    for (const int block : layers_)
      estimate.push_back(to_host(store_.gradient_vector(
          store_.find("blocks." + std::to_string(block) + ".moe.router.weight"))));
  }

  /// Mean loss over the tokens of each of `copies` sequences.
  static std::vector<double> losses(const Matrix<double>& logits, const std::vector<int>& targets,
                                    std::size_t copies) {
    Kokkos::fence("kokomoe::study::losses");
    const std::vector<double> host = to_host(logits);
    const std::size_t columns = logits.extent(1), tokens = targets.size();
    std::vector<double> result(copies, 0);
    for (std::size_t row = 0; row < copies * tokens; ++row) {
      const double* const z = host.data() + row * columns;
      const double largest = *std::max_element(z, z + columns);
      double sum = 0;
      for (std::size_t v = 0; v < columns; ++v) sum += std::exp(z[v] - largest);
      const int target = targets[row % tokens];
      if (target < 0) continue;
      result[row / tokens] += (largest + std::log(sum) - z[static_cast<std::size_t>(target)]) /
                              static_cast<double>(tokens);
    }
    return result;
  }

  /// One counterfactual sequence: token `site` of the layer takes `expert` at `scale`.
  struct Counterfactual {
    std::size_t site;
    int expert;
    double scale;
  };

  Routing<double> tiled(const HostRouting& recorded, std::size_t copies,
                        const std::vector<Counterfactual>* changes) const {
    const auto tokens = static_cast<std::size_t>(sequence_.tokens);
    const auto slots = static_cast<std::size_t>(recorded.slots_per_token);
    Routing<double> replay;
    replay.tokens = static_cast<int>(copies * tokens);
    replay.experts = config_.moe.experts;
    replay.slots_per_token = recorded.slots_per_token;
    std::vector<int> token(copies * tokens * slots), expert(token.size());
    std::vector<double> scale(token.size());
    std::vector<unsigned char> kept, counted;
    for (std::size_t c = 0; c < copies; ++c) {
      for (std::size_t n = 0; n < tokens * slots; ++n) {
        const std::size_t to = c * tokens * slots + n;
        token[to] = static_cast<int>(to / slots);
        expert[to] = recorded.expert[n];
        scale[to] = recorded.scale[n];
      }
      kept.insert(kept.end(), recorded.kept.begin(), recorded.kept.end());
      if (changes == nullptr) continue;
      const Counterfactual& change = (*changes)[c];
      const std::size_t first = (c * tokens + change.site) * slots;
      if (slots == 1) {
        expert[first] = change.expert;
        scale[first] = change.scale;
      } else {
        for (std::size_t e = 0; e < slots; ++e)
          scale[first + e] = static_cast<int>(e) == change.expert ? 1 : 0;
      }
    }
    if (slots > 1)
      for (const double s : scale) counted.push_back(s != 0 ? 1 : 0);
    replay.token = device_copy(token);
    replay.expert = device_copy(expert);
    replay.scale = device_copy(scale);
    replay.weight = replay.scale;
    if (!counted.empty()) replay.counted = device_copy(counted);
    if (!kept.empty()) {
      replay.kept = Matrix<unsigned char>("kokomoe::study::kept", copies * tokens,
                                          recorded.kept.size() / tokens);
      to_device(replay.kept, kept);
    }
    return replay;
  }

  std::vector<double> counterfactual_losses(std::size_t layer, int number, bool redraw,
                                            const std::vector<Counterfactual>& changes) {
    const std::size_t copies = changes.size();
    const auto tokens = static_cast<std::size_t>(sequence_.tokens);
    HostBatch batch;
    batch.tokens = static_cast<int>(copies * tokens);
    batch.sequences = static_cast<int>(copies);
    batch.max_length = sequence_.tokens;
    batch.sequence_offsets.push_back(0);
    for (std::size_t c = 0; c < copies; ++c) {
      const auto append = [](auto& to, const auto& from) {
        to.insert(to.end(), from.begin(), from.end());
      };
      append(batch.ids, sequence_.ids);
      append(batch.targets, sequence_.targets);
      append(batch.position, sequence_.position);
      // The same numbers for all copies: where choices are drawn again, differences between copies
      // are then mostly those that the change makes.
      append(batch.sequence_index, sequence_.sequence_index);
      batch.sequence_offsets.push_back(static_cast<int>((c + 1) * tokens));
    }
    std::vector<Routing<double>> replay(layers_.size());
    for (std::size_t l = 0; l < layers_.size(); ++l)
      if (l <= layer || !redraw)
        replay[l] = tiled(routings_[l], copies, l == layer ? &changes : nullptr);
    saved_.reset();
    scratch_.reset();
    // Replicas of the studies' own, far from those of `record`.
    const StepContext ctx =
        context(batch, wide_device_, static_cast<std::uint32_t>(number) + (redraw ? 32768u : 0u));
    const Matrix<double> logits = model_.forward(ctx, wide_state_, {}, replay);
    return losses(logits, sequence_.targets, copies);
  }

  /// dL/dW of one layer, site by site, from counterfactual forwards.
  std::vector<double> exact(std::size_t layer, int number, bool redraw) {
    const auto tokens = static_cast<std::size_t>(sequence_.tokens);
    const auto experts = static_cast<std::size_t>(config_.moe.experts);
    const auto d = static_cast<std::size_t>(config_.moe.d_model);
    const bool scaled = info_.objective == Objective::scaled;
    const std::vector<double>& p = routings_[layer].probability;
    std::vector<Counterfactual> changes;
    std::vector<double> loss;
    const auto flush = [&] {
      if (changes.empty()) return;
      const std::vector<double> found = counterfactual_losses(layer, number, redraw, changes);
      loss.insert(loss.end(), found.begin(), found.end());
      changes.clear();
    };
    const std::size_t forms = scaled ? 3 : 1;
    for (std::size_t t = 0; t < tokens; ++t)
      for (std::size_t e = 0; e < experts; ++e) {
        changes.push_back({t, static_cast<int>(e), 1});
        if (scaled) changes.push_back({t, static_cast<int>(e), 1 + scale_step});
        if (scaled) changes.push_back({t, static_cast<int>(e), 1 - scale_step});
        if ((changes.size() + forms) * tokens > forward_tokens) flush();
      }
    flush();

    std::vector<double> d_weight(experts * d, 0);
    std::vector<double> value(experts);
    for (std::size_t t = 0; t < tokens; ++t) {
      double mean = 0;
      for (std::size_t e = 0; e < experts; ++e) {
        const double* const f = loss.data() + (t * experts + e) * forms;
        // f(p E) + p f'(p E) . E, the latter as the derivative by the scale.
        value[e] = f[0] + (scaled ? (f[1] - f[2]) / (2 * scale_step) : 0);
        mean += p[t * experts + e] * value[e];
      }
      for (std::size_t e = 0; e < experts; ++e) {
        const double d_z = p[t * experts + e] * (value[e] - mean);
        for (std::size_t c = 0; c < d; ++c) d_weight[e * d + c] += d_z * inputs_[layer][t * d + c];
      }
    }
    return d_weight;
  }

  DecoderConfig config_;
  ExecutionSpace space_;
  ParameterStore<double> store_;
  DecoderLm<double> model_;
  std::uint64_t seed_;
  HostBatch sequence_;
  Communicator alone_;
  Arena saved_{"kokomoe::study::saved"}, scratch_{"kokomoe::study::scratch"};
  DecoderLm<double>::Saved state_, wide_state_;
  DeviceBatch device_, wide_device_;
  EstimatorInfo info_;
  std::vector<int> layers_;
  std::vector<HostRouting> routings_;
  std::vector<std::vector<double>> inputs_;
};

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
             const Parameters& parameters, const HostBatch& sequence, std::int64_t step,
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
  measure(config, model, Parameters(loaded.model->store()), sequence, loaded.step, progress,
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
      measure(config, model, Parameters(run.store()), sequence, step, progress, results);
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
