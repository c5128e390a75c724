// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "command.hpp"
#include "machine_bench.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/core/placement.hpp"

#include <cstdio>
#include <memory>

namespace kokomoe::app {

namespace {

struct GemmOptions {
  std::vector<int> square = {256, 512, 1024, 2048}, rows = {16, 64, 256, 1024, 4096};
  int d_model = 512, d_hidden = 2048, repeats = 11;
  std::string dtype = "float", json;
};

template <class T>
int bench_gemm(const GemmOptions& options) {
  std::vector<GemmBench<T>> cases;
  for (const int n : options.square) cases.emplace_back(n, n, n, Transpose::no);
  // An expert's two products, forward: x W1^T and a W2.
  for (const int m : options.rows) {
    cases.emplace_back(m, options.d_hidden, options.d_model, Transpose::yes);
    cases.emplace_back(m, options.d_model, options.d_hidden, Transpose::no);
  }
  MachineBench<T> machine;
  const ExecutionSpace space;
  constexpr int warm_up = 2;
  for (int i = 0; i < options.repeats + warm_up; ++i) {
    if (i == warm_up) {
      machine.forget();
      for (auto& product : cases) product.forget();
    }
    machine.run(space);
    for (auto& product : cases) product.run(space);
  }

  std::FILE* const table = options.json == "-" ? stderr : stdout;
  if (const std::string warning = placement_warning(); !warning.empty())
    std::fprintf(table, "%s\n", warning.c_str());
  std::fprintf(table, "%s; %s; GEMM %.1f GFLOP/s, stream %.1f GB/s; medians of %d, interleaved\n",
               gemm_library().c_str(), options.dtype.c_str(), machine.gemm_gflops(),
               machine.stream_gbs(), options.repeats);
  std::fprintf(table, "%7s %7s %7s %10s %9s %9s %9s %8s\n", "m", "n", "k", "ms", "quartile",
               "quartile", "GFLOP/s", "of 2048");
  nlohmann::json rows = nlohmann::json::array();
  for (const auto& product : cases) {
    product.print(table, machine.gemm_gflops());
    rows.push_back(product.to_json());
    rows.back()["dtype"] = options.dtype;
  }
  write_json(options.json, {{"results", rows}, {"machine", machine.to_json()}});
  return done;
}

}  // namespace

void add_bench_gemm(CLI::App& bench, Action& action) {
  auto options = std::make_shared<GemmOptions>();
  CLI::App* command = bench.add_subcommand(
      "gemm",
      "the GEMM rate of this machine, square and in a layer's shapes, each one call of the "
      "BLAS over all cores, and its memory bandwidth");
  command->add_option("--square", options->square, "sizes of square products")
      ->delimiter(',')
      ->check(positive_number());
  command->add_option("--rows", options->rows, "tokens of an expert")
      ->delimiter(',')
      ->check(positive_number());
  command->add_option("--d-model", options->d_model)->check(positive_number());
  command->add_option("--d-hidden", options->d_hidden)->check(positive_number());
  command->add_option("--dtype", options->dtype)->check(CLI::IsMember({"float", "double"}));
  command->add_option("--repeats", options->repeats)->check(positive_number());
  command->add_option("--json", options->json, "write to a file, or - for standard output");
  command->callback([options, &action] {
    action = [options](const Communicator& communicator) -> int {
      if (communicator.size() > 1) throw InputError("bench gemm runs on one rank");
      require_json(options->json);
      return options->dtype == "double" ? bench_gemm<double>(*options)
                                        : bench_gemm<float>(*options);
    };
  });
}

}  // namespace kokomoe::app
