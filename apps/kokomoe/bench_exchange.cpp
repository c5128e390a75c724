// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "command.hpp"
#include "exchange_bench.hpp"

#include "kokomoe/core/error.hpp"

#include <cstdio>
#include <memory>

namespace kokomoe::app {

namespace {

#ifdef KOKOMOE_HAVE_MPI

/// Least squares of seconds = alpha + bytes / beta, each point weighted by 1 / seconds^2.
void fit_line(const std::vector<double>& bytes, const std::vector<double>& seconds, double& alpha,
              double& beta) {
  double w = 0, wx = 0, wy = 0, wxx = 0, wxy = 0;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    const double weight = 1 / (seconds[i] * seconds[i]);
    w += weight;
    wx += weight * bytes[i];
    wy += weight * seconds[i];
    wxx += weight * bytes[i] * bytes[i];
    wxy += weight * bytes[i] * seconds[i];
  }
  const double slope = (w * wxy - wx * wy) / (w * wxx - wx * wx);
  alpha = (wy - slope * wx) / w;
  beta = 1 / slope;
}

/// What was measured with one number of bytes; times are seconds of the slowest rank.
struct ExchangeCase {
  double bytes = 0, others = 0;  ///< sent by a rank, and of these to others by the busiest
  double raw = 0, transfer = 0, counts = 0, dispatch = 0, combine = 0;
  int chunks = 0;
  std::string path;
  LayerTimes layer;
};

ExchangeCase measure(const ExchangeOptions& options, const Communicator& ranks, double mib) {
  const double wanted = mib * 1048576 / (options.d_model * sizeof(float));
  const int count = std::max(1, static_cast<int>(std::min(wanted, 2147483647.0)));
  ExchangeBench bench(options, ranks, count);
  Times times;
  for (int i = 0; i < options.repeats + 2; ++i) {
    bench.run(times);
    if (i == 1) times = Times();
  }
  if (!bench.right()) throw Error("rows did not come back as they left");
  return {bench.bytes(),
          bench.bytes_to_others(),
          median(times.raw),
          median(times.transfer),
          median(times.counts),
          median(times.dispatch),
          median(times.combine),
          bench.chunks(),
          bench.description(),
          options.d_hidden > 0 ? time_layer(options, ranks, count) : LayerTimes()};
}

void print_header(std::FILE* to, const ExchangeOptions& options, const Communicator& ranks,
                  const std::string& path) {
  std::fprintf(to,
               "%d ranks, %d experts, rows of %d floats, %s; medians of %d, slowest rank\n"
               "%9s %7s %10s %9s %9s %10s %10s   %s\n",
               ranks.size(), options.experts, options.d_model, path.c_str(), options.repeats,
               "MiB/rank", "parts", "MPI ms", "MPI GB/s", "counts us", "dispatch", "combine",
               "rate over MPI's: transfer dispatch combine");
}

void print_row(std::FILE* to, const ExchangeOptions& options, const ExchangeCase& c) {
  std::fprintf(to, "%9.3f %7d %10.3f %9.2f %9.1f %10.3f %10.3f   %26.2f %8.2f %7.2f\n",
               c.bytes / 1048576, c.chunks, c.raw * 1e3, c.bytes / c.raw * 1e-9, c.counts * 1e6,
               c.dispatch * 1e3, c.combine * 1e3, c.raw / c.transfer, c.raw / c.dispatch,
               c.raw / c.combine);
  if (options.d_hidden > 0)
    std::fprintf(to,
                 "          a layer, forward and backward: %.3f ms with all experts on each rank, "
                 "%.3f ms over the ranks\n",
                 c.layer.alone * 1e3, c.layer.sharded * 1e3);
}

nlohmann::json to_json(const ExchangeOptions& options, const Communicator& ranks,
                       const ExchangeCase& c) {
  nlohmann::json row = {{"ranks", ranks.size()},
                        {"bytes", c.bytes},
                        {"bytes_to_others", c.others},
                        {"chunks", c.chunks},
                        {"experts", options.experts},
                        {"d_model", options.d_model},
                        {"path", c.path},
                        {"mpi_ms", c.raw * 1e3},
                        {"transfer_ms", c.transfer * 1e3},
                        {"counts_ms", c.counts * 1e3},
                        {"dispatch_ms", c.dispatch * 1e3},
                        {"combine_ms", c.combine * 1e3},
                        {"mpi_gbs", c.bytes / c.raw * 1e-9},
                        {"transfer_over_mpi", c.raw / c.transfer},
                        {"dispatch_over_mpi", c.raw / c.dispatch},
                        {"combine_over_mpi", c.raw / c.combine}};
  if (options.d_hidden > 0) {
    row["d_hidden"] = options.d_hidden;
    row["layer_alone_ms"] = c.layer.alone * 1e3;
    row["layer_sharded_ms"] = c.layer.sharded * 1e3;
  }
  return row;
}

int bench_exchange(ExchangeOptions options, const Communicator& ranks) {
  if (ranks.size() < 2)
    throw InputError("bench exchange needs two ranks at least: mpirun -n 2 ...");
  options.parallel.staged = options.staging == "host";
  options.parallel.path = options.path == "flat"   ? ExchangePath::flat
                          : options.path == "node" ? ExchangePath::node
                                                   : ExchangePath::automatic;
  std::FILE* const table = options.json == "-" ? stderr : stdout;
  nlohmann::json rows = nlohmann::json::array();
  std::vector<double> bytes, seconds;
  for (const double mib : options.mib) {
    const ExchangeCase result = measure(options, ranks, mib);
    bytes.push_back(result.others);
    seconds.push_back(result.raw);
    if (!ranks.is_root()) continue;
    if (rows.empty()) print_header(table, options, ranks, result.path);
    print_row(table, options, result);
    rows.push_back(to_json(options, ranks, result));
  }
  if (!ranks.is_root()) return done;
  nlohmann::json machine = {{"ranks", ranks.size()}, {"cores", ExecutionSpace().concurrency()}};
  if (bytes.size() > 1) {
    double alpha = 0, beta = 0;
    fit_line(bytes, seconds, alpha, beta);
    std::fprintf(table, "MPI_Alltoallv: %.1f us + bytes to others / %.2f GB/s\n", alpha * 1e6,
                 beta * 1e-9);
    machine["alpha_us"] = alpha * 1e6;
    machine["beta_gbs"] = beta * 1e-9;
  }
  write_json(options.json, {{"results", rows}, {"machine", machine}});
  return done;
}

#else

int bench_exchange(const ExchangeOptions&, const Communicator&) {
  throw InputError("this Kokomoe was built without MPI: reconfigure with -DKOKOMOE_ENABLE_MPI=ON");
}

#endif

}  // namespace

void add_bench_exchange(CLI::App& bench, Action& action) {
  auto options = std::make_shared<ExchangeOptions>();
  CLI::App* command = bench.add_subcommand(
      "exchange",
      "rows to the ranks of their experts and back, against MPI_Alltoallv of the same "
      "bytes, interleaved");
  command->add_option("--mib", options->mib, "sent by each rank, 2^20 bytes; several with commas")
      ->delimiter(',')
      ->check(positive_number());
  command->add_option("--d-model", options->d_model)->check(CLI::Range(1, 65536));
  command
      ->add_option("--d-hidden", options->d_hidden,
                   "also times a layer of so many hidden channels; 0 = none")
      ->check(CLI::Range(0, 1048576));
  command->add_option("--experts", options->experts)->check(CLI::Range(1, 65536));
  command->add_option("--chunks", options->parallel.exchange_chunks, "parts; 0 = by size")
      ->check(CLI::Range(0, 65536));
  command->add_option("--path", options->path)->check(CLI::IsMember({"auto", "flat", "node"}));
  command->add_option("--ranks-per-node", options->parallel.ranks_per_node, "0 = as MPI says")
      ->check(CLI::Range(0, 65536));
  command->add_option("--staging", options->staging)->check(CLI::IsMember({"auto", "host"}));
  command->add_option("--repeats", options->repeats)->check(CLI::Range(1, 100000));
  command->add_option("--json", options->json, "write to a file, or - for standard output");
  command->footer("Example: mpirun -n 2 kokomoe bench exchange --mib 1,16");
  command->callback([options, &action] {
    action = [options](const Communicator& communicator) {
      if (communicator.is_root()) require_json(options->json);
      return bench_exchange(*options, communicator);
    };
  });
}

}  // namespace kokomoe::app
