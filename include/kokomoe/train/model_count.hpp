// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/moe/moe_config.hpp"
#include "kokomoe/parameters/parameter_store.hpp"

#include <array>
#include <cstddef>
#include <string>
#include <vector>

namespace kokomoe {

struct LanguageModelConfig;
struct TranslationConfig;
struct ElectraTaskConfig;
struct SentenceTaskConfig;

enum class ModelPart {
  embedding,  ///< of tokens, and of positions and segments where they are learned
  attention,
  feed_forward,  ///< dense
  router,
  experts,
  shared_experts,
  norms,  ///< and output gains
  head    ///< what only losses need; has no parameters of its own when it is the embedding
};
constexpr std::size_t model_parts = 8;

/// "embedding", "attention", "feed_forward", ...
const char* to_string(ModelPart part);

struct PartCount {
  double parameters = 0;
  double active = 0;         ///< parameters that a token meets
  double forward_flops = 0;  ///< of a token
};

/// What a model is, over all ranks. Floating-point operations are those of matrix products, two for
/// each multiply-add, attention's by the mean number of keys that a token sees; backward has twice
/// as many as forward, and nothing that is computed again counts. Where a model has several stacks
/// of blocks, "a token" is one of each.
struct ModelCount {
  std::array<PartCount, model_parts> parts{};
  double frozen = 0;  ///< parameters
  double rows = 0;    ///< assignments of a token that run in an MoE layer, unless dropped
  /// Operations of a token of each stack, forward and backward: together flops().
  std::vector<double> stack_flops;

  const PartCount& part(ModelPart which) const { return parts[static_cast<std::size_t>(which)]; }
  PartCount& part(ModelPart which) { return parts[static_cast<std::size_t>(which)]; }
  PartCount total() const;
  double flops() const { return 3 * total().forward_flops; }  ///< of a token, forward and backward
};

/// Counts the tensors whose names begin with one of `prefixes` (none: all) that a model has
/// declared in its store, allocated or not; products of attention by attention are not among them.
/// `rows`: see RoutingMemory.
template <class T>
ModelCount count_tensors(const ParameterStore<T>& store, double rows,
                         const std::vector<std::string>& prefixes = {});

/// Whole models. `config` with its vocabulary; lengths: mean tokens of a sequence.
template <class T>
ModelCount count_model(const LanguageModelConfig& config, const ParameterStore<T>& store);
template <class T>
ModelCount count_model(const TranslationConfig& config, const ParameterStore<T>& store,
                       double source_length, double target_length);
template <class T>
ModelCount count_model(const ElectraTaskConfig& config, const ParameterStore<T>& store);
template <class T>
ModelCount count_model(const SentenceTaskConfig& config, const ParameterStore<T>& store,
                       double length);

}  // namespace kokomoe
