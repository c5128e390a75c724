// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "command.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/study/fidelity.hpp"

#include <cmath>
#include <cstdio>
#include <memory>

namespace kokomoe::app {

namespace {

struct FidelityOptions {
  std::string deck, json;
  std::vector<std::string> overrides;
};

nlohmann::json to_json(const FidelityResult& result) {
  nlohmann::json line = {{"estimator", result.estimator},
                         {"objective", result.objective},
                         {"layout", result.layout},
                         {"sites", result.sites},
                         {"k", result.k},
                         {"argmax_exception", result.argmax_exception},
                         {"relative_error", result.relative_error},
                         {"cosine", result.cosine},
                         {"scaled_error", result.scaled_error},
                         {"order", nullptr},
                         {"scaled_order", nullptr}};
  const auto put = [&](const char* key, const auto& value) {
    if (value) line[key] = *value;
  };
  put("order", result.order);
  put("scaled_order", result.scaled_order);
  put("scale", result.scale);
  put("bias", result.bias);
  put("variance", result.variance);
  put("mse", result.mse);
  put("expert_runs", result.expert_runs);
  put("step", result.step);
  put("layer", result.layer);
  put("relative_error_deviation", result.relative_error_deviation);
  put("redrawn_error", result.redrawn_error);
  put("redrawn_error_deviation", result.redrawn_error_deviation);
  return line;
}

std::string number(const std::optional<double>& value, const char* format, const char* absent) {
  if (!value) return absent;
  char text[32];
  std::snprintf(text, sizeof text, format, *value);
  return text;
}

void print_orders(const std::vector<FidelityResult>& results) {
  std::printf("%-20s %-6s %4s %2s %9s %8s  %9s %6s  %9s %6s\n", "estimator", "layout", "obj.", "k",
              "exception", "cosine", "error", "order", "scaled", "order");
  for (const FidelityResult& r : results)
    std::printf("%-20s %-6s %4s %2d %9s %8.5f  %9.2e %6s  %9.2e %6s\n", r.estimator.c_str(),
                r.layout.c_str(), r.objective.c_str(), r.k, r.argmax_exception ? "yes" : "no",
                r.cosine, r.relative_error, number(r.order, "%.2f", "exact").c_str(),
                r.scaled_error, number(r.scaled_order, "%.2f", "exact").c_str());
  if (!results.empty())
    std::printf("medians; errors at expert outputs of size %g; scaled: after the best scalar\n",
                results.front().scale.value_or(0));
}

void print_spread(const std::vector<FidelityResult>& results) {
  std::printf("%-20s %4s %2s %9s %8s  %9s %10s %10s %8s\n", "estimator", "obj.", "k", "exception",
              "size", "bias", "variance", "mse", "experts");
  for (const FidelityResult& r : results)
    std::printf("%-20s %4s %2d %9s %8.4g  %9.2e %10.3g %10.3g %8s\n", r.estimator.c_str(),
                r.objective.c_str(), r.k, r.argmax_exception ? "yes" : "no", r.scale.value_or(0),
                r.bias.value_or(0), r.variance.value_or(0), r.mse.value_or(0),
                r.objective == "A" ? std::to_string(r.k).c_str() : "all");
  std::printf(
      "medians, relative to the exact gradient; bias by enumeration, variance by drawing\n");
}

void print_training(const std::vector<FidelityResult>& results, std::size_t count) {
  if (results.size() == count)
    std::printf("%-20s %4s %9s %6s %5s %8s  %18s %9s %18s\n", "estimator", "obj.", "exception",
                "step", "layer", "cosine", "error", "scaled", "others drawn again");
  for (std::size_t i = results.size() - count; i < results.size(); ++i) {
    const FidelityResult& r = results[i];
    if (!std::isfinite(r.relative_error)) {
      std::printf("%-20s %4s %9s %6lld %5s the exact gradient is zero\n", r.estimator.c_str(),
                  r.objective.c_str(), r.argmax_exception ? "yes" : "no",
                  static_cast<long long>(r.step.value_or(0)),
                  r.layer ? std::to_string(*r.layer).c_str() : "all");
      continue;
    }
    std::printf("%-20s %4s %9s %6lld %5s %8.5f  %8.4f +- %6.4f %9.4f %8.4f +- %6.4f\n",
                r.estimator.c_str(), r.objective.c_str(), r.argmax_exception ? "yes" : "no",
                static_cast<long long>(r.step.value_or(0)),
                r.layer ? std::to_string(*r.layer).c_str() : "all", r.cosine, r.relative_error,
                r.relative_error_deviation.value_or(0), r.scaled_error, r.redrawn_error.value_or(0),
                r.redrawn_error_deviation.value_or(0));
  }
  std::fflush(stdout);
}

int planted(const FidelityConfig& config, const FidelityOptions& options) {
  const std::vector<PlantedResult> results = fidelity_planted(config);
  const bool print = options.json != "-";
  nlohmann::json lines = nlohmann::json::array();
  if (print)
    std::printf("%-20s %9s %9s %7s %7s %7s\n", "router", "loss", "frozen", "gain", "purity",
                "frozen");
  bool passed = true;
  for (const PlantedResult& r : results) {
    double loss = 0, frozen = 0;
    for (const double value : r.losses) loss += value / static_cast<double>(r.losses.size());
    for (const double value : r.frozen_losses)
      frozen += value / static_cast<double>(r.frozen_losses.size());
    passed = passed && r.passed;
    lines.push_back({{"router", r.router},
                     {"loss", loss},
                     {"frozen_loss", frozen},
                     {"losses", r.losses},
                     {"frozen_losses", r.frozen_losses},
                     {"gain", r.gain},
                     {"purity", r.purity},
                     {"frozen_purity", r.frozen_purity},
                     {"passed", r.passed}});
    if (print)
      std::printf("%-20s %9.4f %9.4f %6.1f%% %7.3f %7.3f%s\n", r.router.c_str(), loss, frozen,
                  100 * r.gain, r.purity, r.frozen_purity, r.passed ? "" : "  BELOW THE MARGIN");
  }
  write_json(options.json, {{"results", lines}, {"margin", config.margin}, {"passed", passed}});
  if (print)
    std::printf("means over %d seeds; margin %.1f%%: %s\n", config.seeds, 100 * config.margin,
                passed ? "every router reaches it" : "NOT reached by every router");
  return passed ? done : failed;
}

int fidelity(const FidelityOptions& options, const Communicator& communicator) {
  const Deck deck = Deck::load(options.deck, fidelity_schema(), options.overrides);
  const FidelityConfig config = read_fidelity_deck(deck);
  const bool print = options.json != "-";
  if (deck.given("fidelity/sites") && config.mode != FidelityConfig::Mode::orders)
    std::fprintf(stderr, "note: fidelity/sites is used in mode \"orders\" alone\n");
  std::vector<FidelityResult> results;
  switch (config.mode) {
    case FidelityConfig::Mode::orders:
      results = fidelity_orders(config);
      if (print) print_orders(results);
      break;
    case FidelityConfig::Mode::spread:
      results = fidelity_spread(config);
      if (print) print_spread(results);
      break;
    case FidelityConfig::Mode::planted:
      return planted(config, options);
    case FidelityConfig::Mode::training:
      results = fidelity_training(config, communicator,
                                  print ? FidelityProgress(print_training) : FidelityProgress());
      break;
  }
  nlohmann::json lines = nlohmann::json::array();
  for (const FidelityResult& result : results) lines.push_back(to_json(result));
  write_json(options.json, {{"results", lines}});
  return done;
}

}  // namespace

void add_fidelity(CLI::App& program, Action& action) {
  const auto options = std::make_shared<FidelityOptions>();
  CLI::App* const command = program.add_subcommand(
      "fidelity", "measure routers' gradient estimators against the exact gradient");
  command->add_option("-i,--input", options->deck, "deck, see inputs/fidelity/")->required();
  command->add_option("--json", options->json, "file for the results, - for standard output");
  command->add_option("overrides", options->overrides, "section/key=value");
  command->callback([options, &action] {
    action = [options](const Communicator& communicator) {
      if (communicator.size() > 1)
        throw InputError("fidelity runs on one rank, not " + std::to_string(communicator.size()));
      require_json(options->json);
      return fidelity(*options, communicator);
    };
  });
}

}  // namespace kokomoe::app
