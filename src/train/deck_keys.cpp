// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "train/deck_keys.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/core/exact_sum.hpp"
#include "kokomoe/moe/router_registry.hpp"
#include "kokomoe/train/task.hpp"

#include <set>

namespace kokomoe::detail {

namespace {

/// The deck's key for a router's option.
KeySpec option_key(const RouterInfo& router, const RouterOption& option) {
  const std::string name = "moe/" + option.name;
  const std::string doc = router.name + ": " + option.doc;
  if (const auto* value = std::get_if<std::int64_t>(&option.default_value))
    return KeySpec::integer(name, *value, doc).range(option.minimum, option.maximum);
  if (const auto* value = std::get_if<double>(&option.default_value))
    return KeySpec::real(name, *value, doc).range(option.minimum, option.maximum);
  if (const auto* value = std::get_if<bool>(&option.default_value))
    return KeySpec::boolean(name, *value, doc);
  return KeySpec::text(name, std::get<std::string>(option.default_value), doc)
      .choice(option.choices);
}

std::vector<std::string> router_names() {
  std::vector<std::string> names;
  for (const RouterInfo& info : router_registry()) names.push_back(info.name);
  return names;
}

/// Options that the deck sets, for the router that it names; others are noted.
RouterOptions read_options(const Deck& deck, const RouterInfo& router,
                           std::vector<std::string>& notes) {
  RouterOptions options;
  std::set<std::string> own;
  for (const RouterOption& option : router.options) {
    own.insert(option.name);
    const std::string key = "moe/" + option.name;
    if (!deck.given(key)) continue;
    if (std::holds_alternative<std::int64_t>(option.default_value))
      options.set(option.name, deck.integer(key));
    else if (std::holds_alternative<double>(option.default_value))
      options.set(option.name, deck.real(key));
    else if (std::holds_alternative<bool>(option.default_value))
      options.set(option.name, deck.boolean(key));
    else
      options.set(option.name, deck.text(key));
  }
  std::set<std::string> noted;
  for (const RouterInfo& other : router_registry())
    for (const RouterOption& option : other.options)
      if (own.count(option.name) == 0 && deck.given("moe/" + option.name) &&
          noted.insert(option.name).second)
        notes.push_back("moe/" + option.name + " is not used by router \"" + router.name + "\"");
  return options;
}

ParallelOptions read_parallel(const Deck& deck) {
  ParallelOptions options;
  options.expert_ranks = static_cast<int>(deck.integer("parallel/expert_ranks"));
  options.exchange_chunks = static_cast<int>(deck.integer("parallel/exchange_chunks"));
  options.ranks_per_node = static_cast<int>(deck.integer("parallel/ranks_per_node"));
  options.staged = deck.text("parallel/staging") == "host";
  const std::string path = deck.text("parallel/exchange");
  options.path = path == "flat"   ? ExchangePath::flat
                 : path == "node" ? ExchangePath::node
                                  : ExchangePath::automatic;
  return options;
}

}  // namespace

void add_run_keys(Schema& schema, const std::string& task) {
  schema.add(KeySpec::text("run/task", task, "what is trained").choice({task}))
      .add(KeySpec::integer("run/seed", 1, "of initial values, batches and every draw")
               .range(0, 1099511627775.0))
      .add(KeySpec::text("run/precision", "float", "float trains; double is for checks")
               .choice({"float", "double"}))
      .add(KeySpec::text(
               "run/activations", "full",
               "what forward keeps for backward: full precision, or bfloat16, which takes "
               "a half to three quarters of the memory and rounds queries, keys and values "
               "in training")
               .choice({"full", "bfloat16"}));
}

void add_moe_keys(Schema& schema, const std::string& router, int every) {
  const RouterDefaults defaults = router.empty() ? RouterDefaults() : router_info(router).defaults;
  schema
      .add(KeySpec::text("moe/router", "sparsemixer", "see kokomoe routers").choice(router_names()))
      .add(KeySpec::integer("moe/experts", 4, "experts of each MoE layer").range(1, 65536))
      .add(KeySpec::integer("moe/k", defaults.k, "experts for each token").range(1, 65536))
      .add(KeySpec::integer("moe/every", every, "layers i with i % every == 0 are MoE; 0 = none")
               .range(0, 255))
      .add(KeySpec::real("moe/balance", defaults.balance, "weight of the load-balance loss")
               .range(0, 1e6))
      .add(KeySpec::text("moe/balance_scope", defaults.balance_scope,
                         "tokens over which the load-balance loss averages")
               .choice({"global", "micro_batch", "sequence"}))
      .add(KeySpec::real("moe/z_loss", 0, "weight of the router z-loss").range(0, 1e6))
      .add(KeySpec::boolean("moe/output_gain", defaults.output_gain,
                            "learned gain on each output channel"))
      .add(KeySpec::boolean("moe/recompute", false,
                            "run experts again in backward instead of keeping their hidden layers: "
                            "less memory, a third more work in them"))
      .add(KeySpec::text(
               "moe/weights", "full",
               "what products of routed experts read: weights, or copies in bfloat16, which "
               "is less to read where experts have few tokens; updates go to the weights")
               .choice({"full", "bfloat16"}))
      .add(KeySpec::boolean("moe/allow_future", false, "allow routers that look at later tokens"));
  schema
      .add(
          KeySpec::real("moe/capacity_factor", 0,
                        "an expert takes at most this times its even share of a routing group; 0 = "
                        "no limit (expert_choice: its own default)")
              .range(0, 1e6))
      .add(KeySpec::text("moe/capacity_drop", "position", "which assignments exceed a capacity")
               .choice({"position", "probability"}))
      .add(KeySpec::integer("moe/routing_group", 0,
                            "consecutive tokens that capacities and batch-coupled routers look at "
                            "together; 0 = each sequence")
               .range(0, 2147483647.0))
      .add(KeySpec::integer("moe/shared_experts", 0, "experts that every token sees")
               .range(0, 65536));
  if (!router.empty())
    for (const RouterOption& option : router_info(router).options)
      schema.add(option_key(router_info(router), option));
  for (const RouterInfo& other : router_registry()) {
    for (const RouterOption& option : other.options) {
      KeySpec key = option_key(other, option);
      if (router.empty())
        schema.add(std::move(key));
      else if (schema.find(key.name) == nullptr)
        schema.add(std::move(key).unlisted());
    }
  }
}

void add_training_keys(Schema& schema, const TrainingDefaults& defaults) {
  schema.add(KeySpec::integer("train/steps", 100, "updates").range(0, 4294967295.0));
  if (defaults.batch_tokens != nullptr)
    schema.add(
        KeySpec::integer("train/batch_tokens", 4096, defaults.batch_tokens).range(1, 2147483647.0));
  schema
      .add(KeySpec::integer("train/accumulate", 1,
                            "micro-batches of an update; each balances its own load")
               .range(1, 65536))
      .add(KeySpec::integer("train/eval_every", 0, "updates between evaluations; 0 = at the end")
               .range(0, 4294967295.0))
      .add(KeySpec::integer("train/samples", 0,
                            "texts that an evaluation writes to samples.jsonl: translations, "
                            "continuations")
               .range(0, 1000))
      .add(KeySpec::text("train/on_non_finite", "stop",
                         "when loss or gradient is NaN or infinite; skip = leave the update out, "
                         "ten in a row at most")
               .choice({"stop", "skip"}))
      .add(KeySpec::real("train/clip", defaults.clip, "gradient norm limit; 0 = none")
               .range(0, 1e30))
      .add(KeySpec::real("train/label_smoothing", 0, "share of the uniform target").range(0, 0.99))
      .add(KeySpec::list("train/freeze", {}, "tensors that are not trained: name patterns with *"));
  schema
      .add(KeySpec::text("optimizer/name", "adamw", "how parameters follow their gradient")
               .choice({"adamw", "sgd"}))
      .add(KeySpec::real("optimizer/learning_rate", 1e-3, "peak").range(0, 1e6))
      .add(KeySpec::integer("optimizer/warmup", 0, "updates of linear rise").range(0, 4294967295.0))
      .add(KeySpec::real("optimizer/warmup_from", 0, "rate before the first update").range(0, 1e6))
      .add(KeySpec::text("optimizer/schedule", defaults.schedule, "after the warm-up")
               .choice({"constant", "inverse_sqrt", "cosine", "linear"}))
      .add(KeySpec::real("optimizer/minimum_rate", 0, "where cosine and linear end").range(0, 1e6))
      .add(KeySpec::real("optimizer/beta1", 0.9, "decay of the first moment").range(0, 0.999999))
      .add(KeySpec::real("optimizer/beta2", defaults.beta2, "decay of the second moment")
               .range(0, 0.99999999))
      .add(KeySpec::real("optimizer/epsilon", 1e-8, "added to the root").range(0, 1))
      .add(KeySpec::real("optimizer/momentum", 0.9, "of sgd").range(0, 0.999999))
      .add(KeySpec::real("optimizer/weight_decay", defaults.weight_decay, "decoupled; on matrices")
               .range(0, 1e6));
  schema
      .add(KeySpec::integer("checkpoint/every", 0, "updates between checkpoints; 0 = at the end")
               .range(0, 4294967295.0))
      .add(KeySpec::integer("checkpoint/keep", 2, "newest kept, beside the best").range(2, 1e6))
      .add(KeySpec::text("checkpoint/on_failure", "stop",
                         "go_on = warn, and try again at the next save; the last one must succeed")
               .choice({"stop", "go_on"}));
  schema
      .add(KeySpec::integer("parallel/expert_ranks", 1,
                            "ranks that share the experts, in blocks; divides the ranks; 0 = all")
               .range(0, 65536))
      .add(KeySpec::integer("parallel/exchange_chunks", 0,
                            "parts of an exchange, each beside another's GEMM; 0 = by size")
               .range(0, 65536))
      .add(KeySpec::text("parallel/exchange", "auto",
                         "how rows travel; auto = by node where there are several")
               .choice({"auto", "flat", "node"}))
      .add(KeySpec::integer("parallel/ranks_per_node", 0, "0 = as MPI says").range(0, 65536))
      .add(KeySpec::text("parallel/expert_kernels", "auto",
                         "how feed-forward layers multiply: blocks of rows, or a GEMM an expert")
               .choice({"auto", "blocks", "gemm"}))
      .add(KeySpec::text("parallel/staging", "auto",
                         "host = through host memory even where MPI reads the device")
               .choice({"auto", "host"}))
      .add(KeySpec::text("parallel/deterministic", "off",
                         "layout = the same bits for any number of ranks and threads, slower")
               .choice({"off", "layout"}));
}

void add_tokenizer_keys(Schema& schema, const char* tokenizer) {
  schema.add(KeySpec::text("data/cache", "data/cache", "folder for token files"))
      .add(KeySpec::text("data/tokenizer", tokenizer, "how text becomes tokens")
               .choice({"bytes", "sentencepiece"}))
      .add(KeySpec::text("data/tokenizer_model", "", "SentencePiece model; empty = train one"))
      .add(KeySpec::integer("data/vocabulary", 8000, "of a SentencePiece model to be trained")
               .range(260, 1e6))
      .add(KeySpec::integer("data/vocabulary_lines", 4000000,
                            "evenly spaced lines that it is trained on, where there are more; 0 = "
                            "all")
               .range(0, 4294967295.0));
}

MoeConfig read_moe(const Deck& deck, bool causal, std::vector<std::string>& notes) {
  MoeConfig moe;
  moe.d_model = static_cast<int>(deck.integer("model/d_model"));
  moe.d_hidden = static_cast<int>(deck.integer("model/d_hidden"));
  moe.activation = parse_activation(deck.text("model/activation"));
  moe.bias = deck.boolean("model/bias");
  moe.experts = static_cast<int>(deck.integer("moe/experts"));
  moe.k = static_cast<int>(deck.integer("moe/k"));
  moe.router = deck.text("moe/router");
  moe.balance = deck.real("moe/balance");
  moe.z_loss = deck.real("moe/z_loss");
  moe.output_gain = deck.boolean("moe/output_gain");
  moe.recompute = deck.boolean("moe/recompute");
  moe.balance_scope = parse_balance_scope(deck.text("moe/balance_scope"));
  moe.capacity_factor = deck.real("moe/capacity_factor");
  moe.capacity_drop = parse_capacity_drop(deck.text("moe/capacity_drop"));
  moe.routing_group = static_cast<int>(deck.integer("moe/routing_group"));
  moe.shared_experts = static_cast<int>(deck.integer("moe/shared_experts"));
  moe.kernels = parse_expert_kernels(deck.text("parallel/expert_kernels"));
  moe.causal = causal;
  moe.allow_future = deck.boolean("moe/allow_future");
  if (deck.integer("moe/every") == 0) return moe;
  moe.round_weights = deck.text("moe/weights") == "bfloat16";

  const RouterInfo& router = router_info(moe.router);
  moe.options = read_options(deck, router, notes);
  if (const auto refusal = impossible(moe)) deck.refuse("moe/" + refusal->key, refusal->reason);
  if (!causal) return moe;
  if (router.batch_coupled)
    notes.push_back("router \"" + router.name + "\" lets a token's output depend on later tokens");
  else if (moe.capacity_factor > 0)
    notes.push_back("moe/capacity_factor lets a token's output depend on later tokens");
  return moe;
}

void read_training(const Deck& deck, TrainConfig& config) {
  config.seed = static_cast<std::uint64_t>(deck.integer("run/seed"));
  config.double_precision = deck.text("run/precision") == "double";
  config.round_kept = deck.text("run/activations") == "bfloat16";
  config.optimizer = {deck.real("optimizer/beta1"), deck.real("optimizer/beta2"),
                      deck.real("optimizer/epsilon"), deck.real("optimizer/weight_decay")};
  config.sgd = deck.text("optimizer/name") == "sgd";
  config.descent = {deck.real("optimizer/momentum"), deck.real("optimizer/weight_decay")};
  config.steps = deck.integer("train/steps");
  config.schedule = {parse_schedule(deck.text("optimizer/schedule")),
                     deck.real("optimizer/learning_rate"),
                     deck.real("optimizer/warmup_from"),
                     deck.real("optimizer/minimum_rate"),
                     deck.integer("optimizer/warmup"),
                     config.steps};
  config.clip = deck.real("train/clip");
  config.label_smoothing = deck.real("train/label_smoothing");
  config.freeze = deck.list("train/freeze");
  config.skip_non_finite = deck.text("train/on_non_finite") == "skip";
  if (deck.known("train/batch_tokens")) config.batch_tokens = deck.integer("train/batch_tokens");
  config.accumulate = static_cast<int>(deck.integer("train/accumulate"));
  config.eval_every = deck.integer("train/eval_every");
  config.samples = static_cast<int>(deck.integer("train/samples"));
  config.checkpoint_every = deck.integer("checkpoint/every");
  config.checkpoint_keep = static_cast<int>(deck.integer("checkpoint/keep"));
  config.parallel = read_parallel(deck);

  config.layout_free = deck.text("parallel/deterministic") == "layout";
  config.cache_folder = deck.text("data/cache");
  config.tokenizer.kind = deck.text("data/tokenizer");
  config.tokenizer.model = deck.text("data/tokenizer_model");
  config.tokenizer.vocabulary = static_cast<int>(deck.integer("data/vocabulary"));
  config.tokenizer.training_lines = deck.integer("data/vocabulary_lines");
  config.tokenizer.cache_folder = config.cache_folder;
}

/// Refuses what parallel/deterministic = "layout" cannot promise.
void check_layout_free(const Deck& deck, const MoeConfig& moe, int moe_every,
                       std::int64_t sequences) {
  if (sequences > exact_sum::largest_sequences)
    deck.refuse("parallel/deterministic",
                "\"layout\" takes at most " + std::to_string(exact_sum::largest_sequences) +
                    " sequences an update, not " + std::to_string(sequences));
  if (moe_every == 0) return;
  if (moe.round_weights)
    deck.refuse("parallel/deterministic",
                "\"layout\" does not work with moe/weights = \"bfloat16\"");
  if (!router_info(moe.router).layout_free) {
    std::string names;
    for (const RouterInfo& info : router_registry())
      if (info.layout_free) names += (names.empty() ? "" : ", ") + info.name;
    deck.refuse("parallel/deterministic",
                "\"layout\" does not work with moe/router = \"" + moe.router +
                    "\", which has sums of its own; it works with " + names);
  }
  if (moe.balance != 0 && moe.balance_scope == BalanceScope::micro_batch)
    deck.refuse("parallel/deterministic",
                "\"layout\" does not work with moe/balance_scope = \"micro_batch\", which is each "
                "rank's own; choose global or sequence");
}

void check_heads(const Deck& deck, int heads, int d_model) {
  if (d_model % heads != 0)
    deck.refuse("model/heads", std::to_string(heads) +
                                   " heads do not divide d_model = " + std::to_string(d_model));
}

void check_rotary(const Deck& deck, Positions positions, int heads, int d_model) {
  if (positions == Positions::rotary && d_model / heads % 2 != 0)
    deck.refuse("model/heads", "rotary positions need an even number of channels a head, not " +
                                   std::to_string(d_model / heads));
}

}  // namespace kokomoe::detail
