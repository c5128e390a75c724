// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/train/model_count.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/moe/layer_memory.hpp"
#include "train/step_planner.hpp"

#include <algorithm>
#include <string>
#include <utility>

namespace kokomoe {

namespace {

/// The part of a tensor, by its name.
ModelPart part_of(const std::string& name) {
  const std::pair<const char*, ModelPart> marks[] = {
      {".attention.", ModelPart::attention}, {".cross.", ModelPart::attention},
      {".ffn.", ModelPart::feed_forward},    {".moe.router.", ModelPart::router},
      {".moe.experts.", ModelPart::experts}, {".moe.shared.", ModelPart::shared_experts},
      {"_norm.", ModelPart::norms},          {".norm.", ModelPart::norms},
      {".output_gain", ModelPart::norms},    {".projection.", ModelPart::head},
      {".dense.", ModelPart::head},          {".out.", ModelPart::head}};
  for (const auto& [mark, part] : marks)
    if (name.find(mark) != std::string::npos) return part;
  if (name == "head.weight" || name == "generator.bias") return ModelPart::head;
  if (name.starts_with("embedding.") || name == "positions.weight") return ModelPart::embedding;
  fail("count_model", "\"" + name + "\" belongs to no part of the model");
}

/// True for what rows are multiplied by. Routers keep tables that are matrices without being
/// trained.
bool is_matrix(const ParameterSpec& spec, ModelPart part) {
  return part == ModelPart::router ? spec.shape.size() == 2 : spec.decay;
}

}  // namespace

const char* to_string(ModelPart part) {
  constexpr const char* names[model_parts] = {"embedding", "attention", "feed_forward",
                                              "router",    "experts",   "shared_experts",
                                              "norms",     "head"};
  return names[static_cast<std::size_t>(part)];
}

PartCount ModelCount::total() const {
  PartCount sum;
  for (const PartCount& part : parts) {
    sum.parameters += part.parameters;
    sum.active += part.active;
    sum.forward_flops += part.forward_flops;
  }
  return sum;
}

template <class T>
ModelCount count_tensors(const ParameterStore<T>& store, double rows,
                         const std::vector<std::string>& prefixes) {
  ModelCount count;
  count.rows = rows;
  for (const auto& entry : store.entries()) {
    const ParameterSpec& spec = entry.spec;
    if (!prefixes.empty() &&
        std::none_of(prefixes.begin(), prefixes.end(),
                     [&](const auto& prefix) { return spec.name.starts_with(prefix); }))
      continue;
    double elements = 1;  // over all ranks
    for (const std::size_t extent : spec.shape) elements *= static_cast<double>(extent);
    const ModelPart which = part_of(spec.name);
    PartCount& part = count.part(which);
    const double active =
        spec.expert ? elements / static_cast<double>(spec.shape[0]) * rows : elements;
    if (!spec.state) {
      part.parameters += elements;
      part.active += active;
      if (entry.frozen) count.frozen += elements;
    }
    if (is_matrix(spec, which) && which != ModelPart::embedding) part.forward_flops += 2 * active;
  }
  return count;
}

namespace detail {

template <class T>
double rows_of_token(MoeConfig moe, int moe_every, int vocabulary, double length) {
  if (moe_every == 0) return 0;
  moe.vocabulary = vocabulary;
  return measure_routing<T>(moe, whole_tokens(length)).rows;
}

template double rows_of_token<float>(MoeConfig, int, int, double);
template double rows_of_token<double>(MoeConfig, int, int, double);

}  // namespace detail

template ModelCount count_tensors<float>(const ParameterStore<float>&, double,
                                         const std::vector<std::string>&);
template ModelCount count_tensors<double>(const ParameterStore<double>&, double,
                                          const std::vector<std::string>&);

}  // namespace kokomoe
