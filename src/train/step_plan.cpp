// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/train/step_plan.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/model/decoder_lm.hpp"
#include "train/activation_memory.hpp"

#include <algorithm>
#include <cmath>
#include <string>

namespace kokomoe {

namespace {

std::int64_t round_up(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}

int expert_ranks_of(const LanguageModelConfig& config, int ranks) {
  const int asked = config.parallel.expert_ranks == 0 ? ranks : config.parallel.expert_ranks;
  if (ranks % asked != 0)
    throw InputError("parallel/expert_ranks: " + std::to_string(asked) + " does not divide " +
                     std::to_string(ranks) + " rank(s)");
  return asked;
}

/// The sequences of an update are cut by micro-batch, then by rank (see LmBatches).
void share_tokens(const LanguageModelConfig& config, StepPlan& plan) {
  const std::int64_t length = config.sequence_length;
  const std::int64_t sequences = config.batch_tokens / length;
  plan.update_tokens = config.batch_tokens;
  plan.micro_batch_tokens = round_up(round_up(sequences, config.accumulate), plan.ranks) * length;
  // More micro-batches than sequences would leave some empty, which the deck refuses.
  plan.rank_tokens = std::min(plan.micro_batch_tokens * config.accumulate, config.batch_tokens);
  if (!config.heldout_files.empty())
    plan.evaluation_tokens =
        std::max<std::int64_t>(1, config.batch_tokens / plan.ranks / length) * length;
}

/// What ParameterStore::allocate would take.
template <class T>
void add_tensors(const ParameterStore<T>& store, MemoryPlan& memory) {
  using Group = typename ParameterStore<T>::Group;
  for (const auto& entry : store.entries()) {
    const double bytes = static_cast<double>(entry.size * sizeof(T));
    TensorBytes& group = entry.group == Group::expert ? memory.experts : memory.replicated;
    group.values += bytes;
    if (entry.spec.rounded) group.values += static_cast<double>(entry.size * sizeof(Bfloat16));
    if (entry.group == Group::state) continue;
    group.gradients += bytes;
    if (!entry.frozen) group.moments += 2 * bytes;
    if (store.sums_exactly())
      group.exact_sums += 2.0 * static_cast<double>(entry.size * sizeof(std::int64_t));
  }
  if (store.sums_exactly())
    memory.replicated.exact_sums +=
        static_cast<double>(store.entries().size() * sizeof(std::int64_t));
}

/// Gradients of what is trained, as they travel.
template <class T>
double gradient_bytes(const ParameterStore<T>& store, typename ParameterStore<T>::Group group) {
  double elements = 0;
  for (const auto& entry : store.entries())
    if (entry.group == group && !entry.frozen) elements += static_cast<double>(entry.size);
  return elements * (store.sums_exactly() ? 2 * sizeof(std::int64_t) : sizeof(T));
}

/// Rows that go to other ranks and back, with balanced experts.
template <class T>
void add_exchanges(const LanguageModelConfig& config, int moe_layers, int chunks, StepPlan& plan) {
  if (plan.expert_ranks == 1) return;
  TrafficPlan& traffic = plan.traffic;
  const double others = static_cast<double>(plan.expert_ranks - 1) / plan.expert_ranks;
  const double rows = others * plan.model.rows * static_cast<double>(plan.rank_tokens) * moe_layers;
  const double row = static_cast<double>(config.model.moe.d_model) * sizeof(T);
  const double sequence = config.layout_free ? sizeof(std::uint32_t) : 0;
  traffic.dispatch = rows * (row + sequence);
  traffic.combine = rows * row;
  // Weights go with the gradients, and theirs come back.
  traffic.dispatch_backward = traffic.combine_backward = rows * (row + sizeof(T));
  const double kinds = 6 + (config.layout_free ? 1 : 0);
  traffic.messages =
      kinds * moe_layers * config.accumulate * chunks * static_cast<double>(plan.expert_ranks - 1);
}

template <class T>
StepPlan plan_with(const LanguageModelConfig& config, int ranks) {
  using Group = typename ParameterStore<T>::Group;
  StepPlan plan;
  plan.ranks = ranks;
  plan.expert_ranks = expert_ranks_of(config, ranks);
  share_tokens(config, plan);

  // Declared as for training, never allocated. The last rank owns as many experts as any.
  ParameterStore<T> store(plan.expert_ranks - 1, plan.expert_ranks);
  const DecoderLm<T> model(config.model, store);
  for (const std::string& pattern : config.freeze)
    if (store.freeze(pattern) == 0)
      throw InputError("train/freeze: no tensor matches \"" + pattern + "\"");
  if (config.layout_free) store.sum_exactly();

  const detail::ActivationMemory<T> activations(config, model.moe_layers(), plan.expert_ranks,
                                                plan.micro_batch_tokens);
  plan.model = count_model<T>(config, store, activations.rows_of_token());
  add_tensors<T>(store, plan.memory);
  plan.memory.saved = activations.saved(plan.micro_batch_tokens);
  plan.memory.evaluation = activations.saved(plan.evaluation_tokens);
  plan.memory.scratch = std::max(activations.scratch(plan.micro_batch_tokens),
                                 activations.forward_scratch(plan.evaluation_tokens));
  if (config.model.positions == Positions::rotary)
    plan.memory.tables = static_cast<double>(sizeof(T)) * config.model.max_length *
                         config.model.moe.d_model / config.model.heads;

  add_exchanges<T>(config, model.moe_layers(), activations.chunks(), plan);
  if (ranks > 1) plan.traffic.replicated_gradients = gradient_bytes<T>(store, Group::replicated);
  if (ranks > plan.expert_ranks)
    plan.traffic.expert_gradients = gradient_bytes<T>(store, Group::expert);
  return plan;
}

/// A sum over ranks that each gets: every byte is sent twice but for one's own share.
double reduction_seconds(double bytes, int ranks, const MachineRates& rates) {
  if (ranks == 1 || bytes == 0) return 0;
  return 2.0 * (ranks - 1) * (rates.latency + bytes / ranks / rates.bandwidth);
}

}  // namespace

double MemoryPlan::total() const {
  return replicated.total() + experts.total() + std::max(saved, evaluation) + scratch + tables;
}

StepPlan plan_step(const LanguageModelConfig& config, int ranks) {
  return config.double_precision ? plan_with<double>(config, ranks)
                                 : plan_with<float>(config, ranks);
}

StepSeconds predict_step(const StepPlan& plan, const MachineRates& rates) {
  StepSeconds seconds;
  seconds.arithmetic = plan.model.flops() * static_cast<double>(plan.rank_tokens) / rates.gemm;
  seconds.exchange =
      plan.traffic.messages * rates.latency + plan.traffic.exchanged() / rates.bandwidth;
  seconds.reduction =
      reduction_seconds(plan.traffic.replicated_gradients, plan.ranks, rates) +
      reduction_seconds(plan.traffic.expert_gradients, plan.ranks / plan.expert_ranks, rates);
  return seconds;
}

}  // namespace kokomoe
