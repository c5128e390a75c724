// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/train/step_plan.hpp"

#include "kokomoe/core/error.hpp"
#include "train/step_planner.hpp"
#include "train/tasks.hpp"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

namespace kokomoe {

namespace {

int expert_ranks_of(const TrainConfig& config, int ranks) {
  const int asked = config.parallel.expert_ranks == 0 ? ranks : config.parallel.expert_ranks;
  if (ranks % asked != 0)
    throw InputError("parallel/expert_ranks: " + std::to_string(asked) + " does not divide " +
                     std::to_string(ranks) + " rank(s)");
  return asked;
}

/// A sum over ranks that each gets: every byte is sent twice but for one's own share.
double reduction_seconds(double bytes, int ranks, const MachineRates& rates) {
  if (ranks == 1 || bytes == 0) return 0;
  return 2.0 * (ranks - 1) * (rates.latency + bytes / ranks / rates.bandwidth);
}

}  // namespace

namespace detail {

TokenShares share_sequences(double sequences, double length, int micro_batches, int ranks) {
  TokenShares shares;
  shares.update = sequences * length;
  shares.micro_batch = std::ceil(std::ceil(sequences / micro_batches) / ranks) * length;
  // More micro-batches than sequences would leave some empty, which decks refuse.
  shares.rank = std::min(shares.micro_batch * micro_batches, shares.update);
  return shares;
}

void make_room(double tokens, double most, TokenShares& shares) {
  shares.micro_batch = std::min(most, shares.micro_batch + tokens);
}

TokenShares share_windows(const TrainConfig& config, int sequence_length, int ranks) {
  TokenShares shares = share_sequences(static_cast<double>(config.batch_tokens / sequence_length),
                                       sequence_length, config.accumulate, ranks);
  shares.update = static_cast<double>(config.batch_tokens);
  return shares;
}

double lookup_scratch(double tokens, double table_rows) {
  constexpr double block = 256;
  return sizeof(int) * (table_rows * (std::ceil(tokens / block) + 1) + tokens);
}

int planned_vocabulary(const TokenizerOptions& tokenizer, const Communicator& communicator,
                       std::vector<std::string>& notes) {
  if (tokenizer.kind != "bytes" && tokenizer.model.empty())
    notes.push_back("a SentencePiece model with data/vocabulary = " +
                    std::to_string(tokenizer.vocabulary) + " is assumed");
  else if (tokenizer.kind != "bytes")
    return make_tokenizer(tokenizer, communicator)->vocabulary();
  return stand_in_vocabulary(tokenizer);
}

std::string shape_text(const MoeConfig& moe, int vocabulary) {
  return "d_model " + std::to_string(moe.d_model) + ", d_hidden " + std::to_string(moe.d_hidden) +
         ", vocabulary " + std::to_string(vocabulary);
}

ModelCount with_stacks(ModelCount all, const std::vector<ModelCount>& stacks) {
  for (PartCount& part : all.parts) part.forward_flops = 0;
  all.stack_flops.clear();
  for (const ModelCount& stack : stacks) {
    for (std::size_t i = 0; i < model_parts; ++i)
      all.parts[i].forward_flops += stack.parts[i].forward_flops;
    all.stack_flops.push_back(stack.flops());
  }
  return all;
}

template <class T>
StepPlanner<T>::StepPlanner(const TrainConfig& config, int ranks, const TokenShares& shares)
    : config_(config),
      shares_(shares),
      // The last rank owns as many experts as any.
      store_(expert_ranks_of(config, ranks) - 1, expert_ranks_of(config, ranks)) {
  plan_.ranks = ranks;
  plan_.expert_ranks = expert_ranks_of(config, ranks);
  plan_.double_precision = config.double_precision;
  const auto whole = [](double tokens) { return static_cast<std::int64_t>(std::llround(tokens)); };
  plan_.update_tokens = whole(shares.update);
  plan_.rank_tokens = whole(shares.rank);
  plan_.micro_batch_tokens = whole(shares.micro_batch);
}

template <class T>
void StepPlanner<T>::declared() {
  using Group = typename ParameterStore<T>::Group;
  for (const std::string& pattern : config_.freeze)
    if (store_.freeze(pattern) == 0)
      throw InputError("train/freeze: no tensor matches \"" + pattern + "\"");
  if (config_.layout_free) store_.sum_exactly();
  add_tensors();
  if (plan_.ranks > 1) plan_.traffic.replicated_gradients = gradient_bytes(Group::replicated);
  if (plan_.ranks > plan_.expert_ranks)
    plan_.traffic.expert_gradients = gradient_bytes(Group::expert);
}

/// What ParameterStore::allocate would take.
template <class T>
void StepPlanner<T>::add_tensors() {
  using Group = typename ParameterStore<T>::Group;
  MemoryPlan& memory = plan_.memory;
  for (const auto& entry : store_.entries()) {
    const double bytes = static_cast<double>(entry.size * sizeof(T));
    TensorBytes& group = entry.group == Group::expert ? memory.experts : memory.replicated;
    group.values += bytes;
    if (entry.spec.rounded) group.values += static_cast<double>(entry.size * sizeof(Bfloat16));
    if (entry.group == Group::state) continue;
    group.gradients += bytes;
    if (!entry.frozen) group.moments += 2 * bytes;
    if (store_.sums_exactly())
      group.exact_sums += 2.0 * static_cast<double>(entry.size * sizeof(std::int64_t));
  }
  if (store_.sums_exactly())
    memory.replicated.exact_sums +=
        static_cast<double>(store_.entries().size() * sizeof(std::int64_t));
}

template <class T>
double StepPlanner<T>::gradient_bytes(typename ParameterStore<T>::Group group) const {
  double elements = 0;
  for (const auto& entry : store_.entries())
    if (entry.group == group && !entry.frozen) elements += static_cast<double>(entry.size);
  return elements * (store_.sums_exactly() ? 2 * sizeof(std::int64_t) : sizeof(T));
}

/// Rows go to other ranks and back, with balanced experts.
template <class T>
StackMemory<T> StepPlanner<T>::stack(const BlockStack<T>& stack, double length) {
  StackMemory<T> memory(stack, config_, whole_tokens(length), plan_.expert_ranks,
                        shares_.micro_batch);
  if (plan_.expert_ranks == 1) return memory;
  TrafficPlan& traffic = plan_.traffic;
  const double others = static_cast<double>(plan_.expert_ranks - 1) / plan_.expert_ranks;
  const double rows = others * memory.rows_of_token() * shares_.rank * memory.moe_layers();
  const double row = static_cast<double>(memory.d_model()) * sizeof(T);
  traffic.dispatch += rows * (row + (config_.layout_free ? sizeof(std::uint32_t) : 0));
  traffic.combine += rows * row;
  // Weights go with the gradients, and theirs come back.
  traffic.dispatch_backward += rows * (row + sizeof(T));
  traffic.combine_backward += rows * (row + sizeof(T));
  const double kinds = 6 + (config_.layout_free ? 1 : 0);
  traffic.messages += kinds * memory.moe_layers() * config_.accumulate * memory.chunks() *
                      static_cast<double>(plan_.expert_ranks - 1);
  return memory;
}

template <class T>
StepPlan StepPlanner<T>::finish(ModelCount model, const ActivationBytes& activations, double tables,
                                double length, std::string shape) {
  plan_.model = std::move(model);
  plan_.memory.saved = activations.saved;
  plan_.memory.scratch = activations.scratch;
  plan_.memory.tables = tables;
  plan_.length = length;
  plan_.shape = std::move(shape);
  return std::move(plan_);
}

template class StepPlanner<float>;
template class StepPlanner<double>;

}  // namespace detail

double MemoryPlan::total() const {
  return replicated.total() + experts.total() + saved + scratch + tables;
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
