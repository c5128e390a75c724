// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "study/model_study.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/nn/cross_entropy.hpp"

#include <algorithm>
#include <cmath>

namespace kokomoe::study {

namespace {

/// Tokens of counterfactual sequences that go through the model at once.
constexpr std::size_t forward_tokens = 8192;
/// Half the step of the difference by s in f(s p E): errors of its square.
constexpr double scale_step = 1e-3;

DecoderConfig study_config(const FidelityConfig& study, const LanguageModelConfig& config,
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

/// Mean loss over the tokens of each of `copies` sequences.
std::vector<double> losses(const Matrix<double>& logits, const std::vector<int>& targets,
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

}  // namespace

ModelStudy::ModelStudy(const FidelityConfig& study, const LanguageModelConfig& config,
                       const EstimatorForm& form, const ModelParameters& parameters,
                       const HostBatch& sequence)
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
  for (const auto& entry : store_.entries()) wanted += entry.spec.state || entry.size == 0 ? 0 : 1;
  if (found != wanted)
    throw InputError("router \"" + config.model.moe.router +
                     "\" has other parameters than a sampled gate: its model cannot be studied");
  for (std::size_t i = 0; i < model_.blocks().size(); ++i)
    if (model_.blocks()[i].moe() != nullptr) layers_.push_back(static_cast<int>(i));
  if (layers_.empty()) throw InputError("the model has no MoE layer");
  info_ = model_.blocks()[static_cast<std::size_t>(layers_[0])].moe()->router().estimator();
}

ModelStudy::Sample ModelStudy::sample(int number) {
  Sample result;
  record(number, result.estimate);
  for (std::size_t l = 0; l < layers_.size(); ++l) {
    result.exact.push_back(exact(l, number, false));
    result.redrawn.push_back(l + 1 < layers_.size() ? exact(l, number, true) : result.exact.back());
  }
  return result;
}

StepContext ModelStudy::context(const HostBatch& batch, DeviceBatch& device,
                                std::uint32_t replica) {
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

void ModelStudy::record(int number, std::vector<std::vector<double>>& estimate) {
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

Routing<double> ModelStudy::tiled(const HostRouting& recorded, std::size_t copies,
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

std::vector<double> ModelStudy::counterfactual_losses(std::size_t layer, int number, bool redraw,
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

std::vector<double> ModelStudy::exact(std::size_t layer, int number, bool redraw) {
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

}  // namespace kokomoe::study
