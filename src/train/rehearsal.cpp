// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/train/rehearsal.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/model/decoder_lm.hpp"
#include "kokomoe/moe/router_registry.hpp"
#include "train/tasks.hpp"

#include <cstdint>
#include <filesystem>
#include <memory>

namespace kokomoe {

namespace {

void require_text(const Deck& deck, const LanguageModelConfig& config) {
  // Other tokenizers have to be made first.
  if (config.tokenizer.kind != "bytes") return;
  std::uintmax_t tokens = 0;
  for (const std::string& path : config.train_files) {
    std::error_code code;
    const std::uintmax_t size = std::filesystem::file_size(path, code);
    if (code) return;  // a pipe or the like
    tokens += 1 + size;
  }
  if (tokens <= static_cast<std::uintmax_t>(config.sequence_length))
    deck.refuse("data/train", "the text has " + std::to_string(tokens) +
                                  " tokens: too few for data/sequence_length = " +
                                  std::to_string(config.sequence_length));
}

}  // namespace

LanguageModelConfig with_stand_ins(LanguageModelConfig config) {
  MoeConfig& moe = config.model.moe;
  if (config.model.vocabulary == 0)
    config.model.vocabulary = detail::stand_in_vocabulary(config.tokenizer);
  if (moe.token_counts == nullptr)
    moe.token_counts = std::make_shared<const std::vector<std::int64_t>>(
        static_cast<std::size_t>(config.model.vocabulary), 0);
  return config;
}

void rehearse_language_model(const Deck& deck, const LanguageModelConfig& config) {
  require_text(deck, config);
  if (config.double_precision)
    detail::require_model<double, DecoderLm>(deck, config, with_stand_ins(config).model);
  else
    detail::require_model<float, DecoderLm>(deck, config, with_stand_ins(config).model);
}

void note_idle_settings(const Deck& deck, std::vector<std::string>& notes) {
  const bool sgd = deck.text("optimizer/name") == "sgd";
  for (const char* key : {"optimizer/beta1", "optimizer/beta2", "optimizer/epsilon"})
    if (sgd && deck.overridden(key)) notes.push_back(std::string(key) + " is not used by sgd");
  if (!sgd && deck.overridden("optimizer/momentum"))
    notes.push_back("optimizer/momentum is not used by adamw");
  if (deck.integer("moe/every") == 0) return;
  const RouterInfo& router = router_info(deck.text("moe/router"));
  const std::string name = "router \"" + router.name + "\"";
  const Deck defaults = detail::defaults_of(deck);
  const auto asked = [&](const std::string& key) { return detail::asked(deck, defaults, key); };
  const bool limited = deck.real("moe/capacity_factor") > 0;
  if (asked("moe/routing_group") && !router.batch_coupled && !limited)
    notes.push_back("moe/routing_group is not used: " + name +
                    " looks at each token by itself, and no capacity is set");
  if (asked("moe/capacity_drop") && !limited)
    notes.push_back("moe/capacity_drop is not used without moe/capacity_factor");
  if (asked("moe/balance_scope") && deck.real("moe/balance") == 0)
    notes.push_back("moe/balance_scope is not used: moe/balance is 0");
  const auto takes = [&](const char* option) {
    for (const RouterOption& known : router.options)
      if (known.name == option) return true;
    return false;
  };
  for (const char* option : {"group_limit", "group_score"})
    if (takes("groups") && takes(option) && deck.integer("moe/groups") == 1 &&
        asked("moe/" + std::string(option)))
      notes.push_back("moe/" + std::string(option) + " is not used: moe/groups is 1");

  if (!deck.overridden("moe/router")) return;
  // A deck that was written for another router, with that one's defaults perhaps.
  std::vector<std::string> keys{"moe/k", "moe/balance", "moe/balance_scope", "moe/output_gain"};
  for (const RouterOption& option : router.options) keys.push_back("moe/" + option.name);
  for (const std::string& key : keys)
    if (asked(key) && !deck.overridden(key))
      notes.push_back(key + " = " + deck.toml(key) + " comes from the deck; " + name +
                      " by itself has " + defaults.toml(key));
}

bool looks_ahead(const LanguageModelConfig& config) {
  return config.model.moe_every != 0 && looks_at_groups(config.model.moe);
}

}  // namespace kokomoe
