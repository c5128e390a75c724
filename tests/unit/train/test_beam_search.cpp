// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/error.hpp"
#include "kokomoe/train/beam_search.hpp"
#include "support/catch.hpp"
#include "support/packed_step.hpp"

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

constexpr int vocabulary = 5, end_token = 4;

EncoderDecoderConfig tiny(bool post_norm, const std::string& router, int max_length = 12) {
  EncoderDecoderConfig config;
  config.vocabulary = vocabulary;
  config.encoder_layers = 1;
  config.decoder_layers = 2;
  config.heads = 2;
  config.max_length = max_length;
  config.post_norm = post_norm;
  config.moe_every = router.empty() ? 0 : 1;
  config.moe.d_model = 8;
  config.moe.d_hidden = 12;
  config.moe.activation = Activation::relu;
  config.moe.experts = 3;
  config.moe.router = router.empty() ? "switch" : router;
  return config;
}

/// Initial values say nearly the same of every token: larger ones make a search worth while.
void scale_matrices(const ParameterStore<double>& store, double factor) {
  for (int i = 0; i < static_cast<int>(store.entries().size()); ++i) {
    if (store.entries()[static_cast<std::size_t>(i)].spec.shape.size() < 2) continue;
    const Vector<double> values = store.value_vector({i});
    Kokkos::parallel_for(
        "kokomoe::test::scale", Kokkos::RangePolicy<ExecutionSpace>(0, values.extent(0)),
        KOKKOS_LAMBDA(const std::size_t j) { values(j) *= factor; });
  }
  Kokkos::fence();
}

/// A model with random parameters, and what it says of whole sentences, without a cache.
class Rig {
 public:
  explicit Rig(const EncoderDecoderConfig& config, std::uint64_t seed = 3)
      : model_(config, store_) {
    store_.allocate(ExecutionSpace(), seed);
    scale_matrices(store_, 3);
  }

  /// log p of every next token after `prefix`.
  std::vector<double> next(const std::vector<int>& source, const std::vector<int>& prefix) const {
    std::vector<int> from = source, to = {end_token};
    from.push_back(end_token);
    to.insert(to.end(), prefix.begin(), prefix.end());
    const auto source_step = step_of(from), target_step = step_of(to);
    const StepContext &source_ctx = source_step->ctx, &target_ctx = target_step->ctx;
    typename EncoderDecoder<double>::Saved saved;
    const std::vector<double> logits = on_host(model_.forward(source_ctx, target_ctx, saved));
    const double* const row = logits.data() + prefix.size() * vocabulary;
    double sum = 0;
    for (int v = 0; v < vocabulary; ++v) sum += std::exp(row[v]);
    std::vector<double> log_p(vocabulary);
    for (int v = 0; v < vocabulary; ++v)
      log_p[static_cast<std::size_t>(v)] = row[v] - std::log(sum);
    return log_p;
  }

  std::vector<std::vector<Hypothesis>> search(const std::vector<std::vector<int>>& sources,
                                              const SearchOptions& options) const {
    const auto step = step_of({0});
    return beam_search<double>(step->ctx, model_, sources, end_token, options);
  }

 private:
  /// One sequence in evaluation.
  static std::unique_ptr<PackedStep> step_of(const std::vector<int>& ids) {
    const int n = static_cast<int>(ids.size());
    std::vector<int> position(ids.size());
    std::iota(position.begin(), position.end(), 0);
    auto step =
        std::make_unique<PackedStep>(ids, std::vector<int>(ids.size(), -1), std::vector<int>{0, n},
                                     std::vector<std::uint32_t>(ids.size(), 0), position);
    step->ctx.training = false;
    return step;
  }

  ParameterStore<double> store_;
  EncoderDecoder<double> model_;
};

double penalised(double log_probability, std::size_t n, double a) {
  return log_probability / std::pow((5.0 + static_cast<double>(n)) / 6.0, a);
}

/// Every sentence of up to `limit` tokens, its end among them, with its log-probability.
void enumerate(const Rig& rig, const std::vector<int>& source, int limit, std::vector<int>& prefix,
               double log_p, double a, std::vector<Hypothesis>& all) {
  const std::vector<double> next = rig.next(source, prefix);
  for (int v = 0; v < vocabulary; ++v) {
    const double sum = log_p + next[static_cast<std::size_t>(v)];
    if (v == end_token) {
      all.push_back({prefix, sum, penalised(sum, prefix.size() + 1, a), true});
    } else if (static_cast<int>(prefix.size()) + 1 < limit) {
      prefix.push_back(v);
      enumerate(rig, source, limit, prefix, sum, a, all);
      prefix.pop_back();
    }
  }
}

}  // namespace

TEST_CASE("a beam that holds everything finds what enumeration finds", "[beam_search]") {
  for (const bool post_norm : {false, true})
    for (const std::string router : {"", "sparsemixer", "top_k"})
      for (const double penalty : {0.0, 0.6, 3.0}) {
        const Rig rig(tiny(post_norm, router));
        const std::vector<int> source = {1, 3};
        // Sources of 2 tokens, 1 more for the translation: limit 4, 4 + 16 + 64 sentences that go
        // on.
        const int limit = 4;
        SearchOptions options{1000, penalty, 1};
        const std::vector<Hypothesis> found = rig.search({source}, options).front();
        std::vector<Hypothesis> all;
        std::vector<int> prefix;
        enumerate(rig, source, limit, prefix, 0, penalty, all);
        std::stable_sort(all.begin(), all.end(), [](const Hypothesis& a, const Hypothesis& b) {
          return a.score > b.score;
        });
        INFO(router << " post-norm " << post_norm << " penalty " << penalty);
        REQUIRE(all.size() == 1 + 4 + 16 + 64);
        REQUIRE(found.size() == all.size());
        for (std::size_t i = 0; i < all.size(); ++i) {
          CHECK(found[i].finished);
          CHECK(found[i].tokens == all[i].tokens);
          CHECK(std::abs(found[i].log_probability - all[i].log_probability) < 1e-11);
          CHECK(std::abs(found[i].score - all[i].score) < 1e-11);
        }
      }
}

TEST_CASE("a beam of one is greedy", "[beam_search]") {
  int ended = 0, limited = 0;
  for (const std::uint64_t seed : {1, 2, 3, 4, 5, 6}) {
    const Rig rig(tiny(seed % 2 == 0, seed < 4 ? "sparsemixer" : ""), seed);
    const std::vector<int> source = {0, 2, 1};
    const Hypothesis found = rig.search({source}, {1, 0.6, 4}).front().front();
    std::vector<int> tokens;
    bool finished = false;
    double log_p = 0;
    while (true) {
      const std::vector<double> next = rig.next(source, tokens);
      const auto best = std::max_element(next.begin(), next.end());
      finished = best - next.begin() == end_token;
      if (!finished && tokens.size() == 3 + 4) break;
      log_p += *best;
      if (finished) break;
      tokens.push_back(static_cast<int>(best - next.begin()));
    }
    INFO("seed " << seed);
    CHECK(found.tokens == tokens);
    CHECK(found.finished == finished);
    CHECK(std::abs(found.log_probability - log_p) < 1e-11);
    ++(finished ? ended : limited);
  }
  CHECK(ended > 0);
  CHECK(limited > 0);
}

TEST_CASE("a translation is as long as it may be at most, finished or not", "[beam_search]") {
  bool ended_at_limit = false, unfinished = false;
  for (const std::uint64_t seed : {1, 2, 3, 4, 5, 6, 7, 8})
    for (const int beam : {1, 3})
      for (const int extra : {0, 1, 2, 50}) {
        const int max_length = 9;
        const Rig rig(tiny(seed % 2 == 0, "", max_length), seed);
        for (const std::vector<int>& source :
             {std::vector<int>{1}, {0, 2, 1}, {3, 3, 3, 3, 3, 3}}) {
          const std::size_t most = std::min(source.size() + static_cast<std::size_t>(extra),
                                            std::size_t{max_length - 1});
          const auto all = rig.search({source}, {beam, 0.6, extra});
          for (const Hypothesis& found : all.front()) {
            INFO("seed " << seed << " beam " << beam << " extra " << extra);
            CHECK(found.tokens.size() <= most);
            if (found.finished) {
              ended_at_limit = ended_at_limit || found.tokens.size() == most;
              continue;
            }
            unfinished = true;
            CHECK(found.tokens.size() == most);
            double log_p = 0;
            for (std::size_t i = 0; i < most; ++i) {
              const std::vector<int> prefix(found.tokens.begin(),
                                            found.tokens.begin() + static_cast<std::ptrdiff_t>(i));
              log_p += rig.next(source, prefix)[static_cast<std::size_t>(found.tokens[i])];
            }
            CHECK(std::abs(found.log_probability - log_p) < 1e-11);
            CHECK(std::abs(found.score - penalised(log_p, most, 0.6)) < 1e-11);
          }
        }
      }
  CHECK(ended_at_limit);
  CHECK(unfinished);
}

TEST_CASE("a translation does not depend on its company", "[beam_search]") {
  const Rig rig(tiny(false, "top_k"), 8);
  const std::vector<std::vector<int>> sources = {{0, 1}, {3}, {2, 2, 1, 0, 3}, {1, 2, 3}, {3}};
  const SearchOptions options{3, 0.6, 6};
  const auto together = rig.search(sources, options);
  REQUIRE(together.size() == sources.size());
  for (std::size_t i = 0; i < sources.size(); ++i) {
    const auto alone = rig.search({sources[i]}, options).front();
    REQUIRE(alone.size() == together[i].size());
    for (std::size_t h = 0; h < alone.size(); ++h) {
      CHECK(alone[h].tokens == together[i][h].tokens);
      CHECK(std::abs(alone[h].score - together[i][h].score) < 1e-11);
    }
  }
}

TEST_CASE("search refuses sources that it cannot take, by number", "[beam_search]") {
  const Rig rig(tiny(false, ""));
  const auto refusal = [&](const std::vector<std::vector<int>>& sources) {
    return message_of<InputError>([&] { rig.search(sources, {}); });
  };
  CHECK_THAT(refusal({{1}, {}}), contains("sentence 2") && contains("no token"));
  CHECK_THAT(refusal({{1}, {2}, std::vector<int>(12, 1)}),
             contains("sentence 3") && contains("12 tokens") && contains("takes 12"));
  CHECK(rig.search({std::vector<int>(11, 1)}, {}).size() == 1);
  CHECK(rig.search({}, {}).empty());
}
