// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "command.hpp"
#include "layer_bench.hpp"
#include "machine_bench.hpp"

#include "kokomoe/core/placement.hpp"

#include <cstdio>
#include <memory>

namespace kokomoe::app {

namespace {

/// Everything of one run, measured in rounds: each layer once a round, beside the machine's limits.
template <class T>
class LayerRounds {
 public:
  explicit LayerRounds(const LayerOptions& options) : options_(options), inputs_(options) {
    for (const std::string& activations : options.activations) {
      const bool round_kept = activations == "bfloat16";
      dense_.push_back(std::make_unique<DenseBench<T>>(options, round_kept, inputs_));
      for (const int experts : options.experts)
        for (const std::string& router : options.routers)
          for (const std::string& weights : options.weights)
            sparse_.push_back(std::make_unique<SparseBench<T>>(options, router, experts, round_kept,
                                                               weights == "bfloat16", inputs_));
    }
  }

  void measure() {
    for (auto& layer : dense_) layer->measure_memory();
    for (auto& layer : sparse_) layer->measure_memory();
    constexpr int warm_up = 2;
    for (int i = 0; i < options_.repeats + warm_up; ++i) {
      if (i == warm_up) forget();
      machine_.run(inputs_.ctx.space);
      for (auto& layer : dense_) layer->run();
      for (auto& layer : sparse_) layer->run();
    }
    for (auto& layer : sparse_) layer->measure_router();
  }

  std::vector<const LayerCase*> cases() const {
    std::vector<const LayerCase*> all;
    for (const auto& layer : dense_) all.push_back(&layer->result);
    for (const auto& layer : sparse_) all.push_back(&layer->result);
    return all;
  }
  const MachineBench<T>& machine() const { return machine_; }

 private:
  void forget() {
    machine_.forget();
    for (auto& layer : dense_) layer->result.forget();
    for (auto& layer : sparse_) layer->result.forget();
  }

  LayerOptions options_;
  LayerInputs<T> inputs_;
  std::vector<std::unique_ptr<DenseBench<T>>> dense_;
  std::vector<std::unique_ptr<SparseBench<T>>> sparse_;
  MachineBench<T> machine_;
};

/// Figures that follow from the times of a layer.
struct LayerFigures {
  double rows, gflops;
  double shares[4] = {0, 0, 1, 0};

  LayerFigures(const LayerOptions& options, const LayerCase& result)
      : rows(result.rows > 0 ? result.rows / options.repeats : options.tokens) {
    const double matrices = parse_activation(options.activation) == Activation::swiglu ? 3 : 2;
    const double row_flops = 2.0 * matrices * options.d_model * options.d_hidden * 3;
    gflops = row_flops * rows / median(result.both) * 1e-9;
    if (result.parts[0].empty()) return;
    double total = 0;
    for (int i = 0; i < 4; ++i) total += shares[i] = median(result.parts[i]);
    for (double& share : shares) share /= total;
  }
};

void print_header(std::FILE* to, const LayerOptions& options, double gemm_gflops,
                  double stream_gbs) {
  if (const std::string warning = placement_warning(); !warning.empty())
    std::fprintf(to, "%s\n", warning.c_str());
  std::fprintf(to, "Experts: %s\n", to_string(parse_expert_kernels(options.kernels)).c_str());
  std::fprintf(to,
               "%s; T %d, d %d, h %d, %s, %s routing; GEMM %.1f GFLOP/s, stream %.1f GB/s (medians "
               "of %d; the router alone: of %d)\n",
               gemm_library().c_str(), options.tokens, options.d_model, options.d_hidden,
               options.dtype.c_str(), options.routing.c_str(), gemm_gflops, stream_gbs,
               options.repeats, options.router_repeats);
  std::fprintf(to, "%-20s %7s %8s %8s %8s %17s %8s %8s %8s %6s %8s %9s   %s\n", "router", "experts",
               "fwd ms", "bwd ms", "both ms", "quartiles", "GFLOP/s", "of GEMM", "of dense", "load",
               "MiB", "router ms", "router dispatch experts combine");
}

void print_row(std::FILE* to, const LayerCase& result, const LayerFigures& figures,
               double gemm_gflops, double dense_gflops) {
  const Spread both(result.both);
  char alone[16] = "-";
  if (!result.alone.seconds.empty())
    std::snprintf(alone, sizeof alone, "%.3f", median(result.alone.seconds) * 1e3);
  const std::string name =
      result.router + (result.round_kept ? " a16" : "") + (result.round_weights ? " w16" : "");
  std::fprintf(to,
               "%-20s %7d %8.2f %8.2f %8.2f %8.2f %8.2f %8.1f %8.3f %8.3f %6.2f %8.1f %9s   %6.3f "
               "%8.3f %7.3f %7.3f\n",
               name.c_str(), result.experts, median(result.forward) * 1e3,
               median(result.backward) * 1e3, both.median * 1e3, both.low * 1e3, both.high * 1e3,
               figures.gflops, figures.gflops / gemm_gflops, figures.gflops / dense_gflops,
               result.largest_over_mean,
               static_cast<double>(result.saved_bytes + result.scratch_bytes) / 1048576, alone,
               figures.shares[0], figures.shares[1], figures.shares[2], figures.shares[3]);
}

nlohmann::json to_json(const LayerOptions& options, const LayerCase& result,
                       const LayerFigures& figures) {
  const Spread forward(result.forward), backward(result.backward), both(result.both);
  nlohmann::json row = {{"router", result.router},
                        {"experts", result.experts},
                        {"tokens", options.tokens},
                        {"rows", figures.rows},
                        {"d_model", options.d_model},
                        {"d_hidden", options.d_hidden},
                        {"dtype", options.dtype},
                        {"activation", options.activation},
                        {"activations", result.round_kept ? "bfloat16" : "full"},
                        {"weights", result.round_weights ? "bfloat16" : "full"},
                        {"routing", options.routing},
                        {"kernels", to_string(parse_expert_kernels(options.kernels))},
                        {"largest_over_mean", result.largest_over_mean},
                        {"forward_ms", forward.median * 1e3},
                        {"forward_ms_quartiles", forward.quartiles(1e3)},
                        {"backward_ms", backward.median * 1e3},
                        {"backward_ms_quartiles", backward.quartiles(1e3)},
                        {"both_ms", both.median * 1e3},
                        {"both_ms_quartiles", both.quartiles(1e3)},
                        {"gflops", figures.gflops},
                        {"saved_bytes", result.saved_bytes},
                        {"scratch_bytes", result.scratch_bytes},
                        {"share_router", figures.shares[0]},
                        {"share_dispatch", figures.shares[1]},
                        {"share_experts", figures.shares[2]},
                        {"share_combine", figures.shares[3]}};
  if (result.alone.seconds.empty()) return row;
  const Spread alone(result.alone.seconds);
  row["router_ms"] = alone.median * 1e3;
  row["router_ms_least"] = alone.least * 1e3;
  row["router_ms_quartiles"] = alone.quartiles(1e3);
  row["router_product_flops"] = result.alone.product_flops;
  row["router_saved_bytes"] = result.alone.saved_bytes;
  row["router_scratch_bytes"] = result.alone.scratch_bytes;
  return row;
}

template <class T>
int bench_layer(const LayerOptions& options) {
  LayerRounds<T> rounds(options);
  rounds.measure();
  const double gemm_gflops = rounds.machine().gemm_gflops();
  std::FILE* const table = options.json == "-" ? stderr : stdout;
  print_header(table, options, gemm_gflops, rounds.machine().stream_gbs());
  nlohmann::json rows = nlohmann::json::array();
  double dense_gflops = 0;
  for (const LayerCase* const result : rounds.cases()) {
    const LayerFigures figures(options, *result);
    if (result->router == "dense" && dense_gflops == 0) dense_gflops = figures.gflops;
    print_row(table, *result, figures, gemm_gflops, dense_gflops);
    rows.push_back(to_json(options, *result, figures));
  }
  write_json(options.json, {{"results", rows}, {"machine", rounds.machine().to_json()}});
  return done;
}

}  // namespace

void add_bench_layer(CLI::App& bench, Action& action) {
  auto options = std::make_shared<LayerOptions>();
  CLI::App* command = bench.add_subcommand(
      "layer",
      "an MoE layer, forward and backward, against the dense layer of the same active "
      "size and the GEMM rate, interleaved");
  command->add_option("--tokens", options->tokens)->check(positive_number());
  command->add_option("--d-model", options->d_model)->check(positive_number());
  command->add_option("--d-hidden", options->d_hidden)->check(positive_number());
  command->add_option("--experts", options->experts)->delimiter(',')->check(positive_number());
  command->add_option("--router", options->routers)->delimiter(',');
  command->add_option("--activation", options->activation);
  command
      ->add_option("--routing", options->routing,
                   "random = as a new router does with random tokens; balanced; skewed = half of "
                   "the tokens to one expert: tokens near the router's rows, which it then chooses")
      ->check(CLI::IsMember({"random", "balanced", "skewed"}));
  command
      ->add_option("--kernels", options->kernels,
                   "how experts multiply: blocks of rows, a core each, or a GEMM for each expert")
      ->check(CLI::IsMember({"auto", "blocks", "gemm"}));
  command
      ->add_option("--activations", options->activations,
                   "what forward keeps: full, bfloat16, or both, which are then compared")
      ->delimiter(',')
      ->check(CLI::IsMember({"full", "bfloat16"}));
  command
      ->add_option("--weights", options->weights,
                   "what products of routed experts read: full, bfloat16, or both")
      ->delimiter(',')
      ->check(CLI::IsMember({"full", "bfloat16"}));
  command->add_option("--dtype", options->dtype)->check(CLI::IsMember({"float", "double"}));
  command->add_option("--repeats", options->repeats)->check(positive_number());
  command->add_option("--router-repeats", options->router_repeats, "of the router by itself")
      ->check(positive_number());
  command->add_option("--json", options->json, "write to a file, or - for standard output");
  command->callback([options, &action] {
    action = [options](const Communicator& communicator) -> int {
      if (communicator.size() > 1) throw InputError("bench layer runs on one rank");
      require_json(options->json);
      return options->dtype == "double" ? bench_layer<double>(*options)
                                        : bench_layer<float>(*options);
    };
  });
}

}  // namespace kokomoe::app
