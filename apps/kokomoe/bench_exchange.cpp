// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "bench_tools.hpp"
#include "command.hpp"

#include "kokomoe/config.hpp"
#include "kokomoe/core/error.hpp"
#include "kokomoe/core/philox.hpp"
#include "kokomoe/moe/combine.hpp"
#include "kokomoe/moe/dispatch_plan.hpp"
#include "kokomoe/moe/moe_layer.hpp"
#include "kokomoe/moe/row_travel.hpp"
#ifdef KOKOMOE_HAVE_MPI
#include "kokomoe/parallel/mpi.hpp"
#endif

#include <cstdio>
#include <memory>
#include <numeric>

namespace kokomoe::app {

namespace {

struct ExchangeOptions {
  std::vector<double> mib = {0.0625, 0.25, 1, 4, 16, 64};
  int d_model = 512, d_hidden = 0, experts = 8, repeats = 21;
  std::string path = "auto", staging = "auto", json;
  ParallelOptions parallel;
};

#ifdef KOKOMOE_HAVE_MPI

/// The same bytes by one call of the MPI library: what the exchange is measured against.
class RawExchange {
 public:
  RawExchange(const Communicator& ranks, std::size_t row_bytes) : comm_(mpi_comm(ranks)) {
    MPI_Type_contiguous(static_cast<int>(row_bytes), MPI_BYTE, &type_);
    MPI_Type_commit(&type_);
  }
  ~RawExchange() { MPI_Type_free(&type_); }
  RawExchange(const RawExchange&) = delete;
  RawExchange& operator=(const RawExchange&) = delete;

  void run(const std::vector<int>& send, const void* from, const std::vector<int>& receive,
           void* to) {
    const auto offsets = [](const std::vector<int>& counts, std::vector<int>& result) {
      result.resize(counts.size());
      std::exclusive_scan(counts.begin(), counts.end(), result.begin(), 0);
    };
    offsets(send, send_offsets_);
    offsets(receive, receive_offsets_);
    MPI_Alltoallv(from, send.data(), send_offsets_.data(), type_, to, receive.data(),
                  receive_offsets_.data(), type_, comm_);
  }

 private:
  MPI_Comm comm_;
  MPI_Datatype type_ = MPI_DATATYPE_NULL;
  std::vector<int> send_offsets_, receive_offsets_;
};

/// Seconds of the slowest rank.
template <class Work>
double timed(const ExecutionSpace& space, const Communicator& ranks, const Work& work) {
  space.fence();
  ranks.barrier();
  Timer timer(space);
  work();
  const auto nanoseconds = static_cast<std::int64_t>(timer.lap() * 1e9);
  return static_cast<double>(ranks.all_reduce_max(nanoseconds)) * 1e-9;
}

struct Times {
  std::vector<double> raw, transfer, counts, dispatch, combine;
};

/// Rows of one size, each for an expert drawn at random.
class ExchangeBench {
 public:
  ExchangeBench(const ExchangeOptions& options, const Communicator& ranks, int rows)
      : options_(options),
        ranks_(ranks),
        exchange_(ranks, options.parallel),
        raw_(ranks, static_cast<std::size_t>(options.d_model) * sizeof(float)),
        x_("bench::x", rows, options.d_model),
        y_("bench::y", rows, options.d_model),
        gathered_("bench::gathered", rows, options.d_model),
        token_("bench::token", static_cast<std::size_t>(rows)),
        expert_("bench::expert", static_cast<std::size_t>(rows)) {
    const PhiloxStream stream(1, Purpose::initialization, 0, 0, 0);
    const Vector<int> token = token_, expert = expert_;
    const Matrix<float> x = x_;
    const int experts = options.experts, columns = options.d_model, first = ranks.rank() * rows;
    Kokkos::parallel_for(
        KOKOMOE_LABEL("bench::rows"), Kokkos::RangePolicy<ExecutionSpace>(space_, 0, rows),
        KOKKOS_LAMBDA(const int t) {
          const auto u = stream.template uniform<float>(static_cast<std::uint32_t>(first + t), 0, 0);
          token(t) = t;
          expert(t) = static_cast<int>(u * static_cast<float>(experts)) % experts;
          for (int j = 0; j < columns; ++j) x(t, j) = u + static_cast<float>(j);
        });
    build_dispatch_plan(space_, kept_, scratch_, rows, experts, 1, token_, expert_, plan_);
    exchange_.plan(space_, kept_, plan_.offsets_on_host(), row_bytes(), way_);
    arrived_ = Matrix<float>("bench::arrived", static_cast<std::size_t>(way_.rows_received()),
                             static_cast<std::size_t>(columns));
    unsorted_ = RowTravel<float>::unsorted_rows(kept_, way_, static_cast<std::size_t>(columns));
    gather_rows<float>(space_, plan_, x_, gathered_);
    send_.assign(static_cast<std::size_t>(ranks.size()), 0);
    receive_ = send_;
    for (int c = 0; c < way_.chunks; ++c)
      for (std::size_t q = 0; q < send_.size(); ++q) {
        send_[q] += way_.send_counts[static_cast<std::size_t>(c) * send_.size() + q];
        receive_[q] += way_.receive_counts[static_cast<std::size_t>(c) * send_.size() + q];
      }
  }

  void run(Times& times) {
    times.raw.push_back(timed(space_, ranks_, [&] { raw_.run(send_, gathered_.data(), receive_, arrived_.data()); }));
    times.transfer.push_back(timed(space_, ranks_, [&] { move(ExpertExchange::Way::to_experts, false); }));
    times.counts.push_back(timed(space_, ranks_, [&] { count(); }));
    times.dispatch.push_back(timed(space_, ranks_, [&] {
      count();
      gather_rows<float>(space_, plan_, x_, gathered_);
      move(ExpertExchange::Way::to_experts, true);
    }));
    times.combine.push_back(timed(space_, ranks_, [&] {
      move(ExpertExchange::Way::back, true);
      combine_rows<float>(space_, plan_, gathered_, Vector<const float>(), y_);
    }));
  }

  /// Rows that came back are those that left.
  bool right() const {
    int wrong = 0;
    const Matrix<const float> a = x_, b = y_;
    Kokkos::parallel_reduce(
        KOKOMOE_LABEL("bench::check"), Kokkos::RangePolicy<ExecutionSpace>(0, a.extent(0)),
        KOKKOS_LAMBDA(const std::size_t t, int& sum) {
          for (std::size_t j = 0; j < a.extent(1); ++j)
            if (a(t, j) != b(t, j)) ++sum;
        },
        wrong);
    return ranks_.all_reduce_max(wrong) == 0;
  }
  double bytes() const { return static_cast<double>(x_.size() * sizeof(float)); }
  /// Bytes that leave the busiest rank.
  double bytes_to_others() const {
    std::int64_t rows = 0;
    for (std::size_t q = 0; q < send_.size(); ++q)
      if (q != static_cast<std::size_t>(ranks_.rank())) rows += send_[q];
    return static_cast<double>(ranks_.all_reduce_max(rows)) * static_cast<double>(row_bytes());
  }
  int chunks() const { return way_.chunks; }
  std::string description() const { return exchange_.description(); }

 private:
  std::size_t row_bytes() const { return x_.extent(1) * sizeof(float); }
  void count() {
    scratch_.reset();
    exchange_.plan(space_, scratch_, plan_.offsets_on_host(), row_bytes(), again_);
  }
  void move(ExpertExchange::Way way, bool sorted) {
    if (!sorted) {
      // The transfer alone: parts in the order in which they arrive.
      for (int c = 0; c < way_.chunks; ++c)
        tickets_.push_back(exchange_.begin(space_, way_, c, way, gathered_.data(), arrived_.data(),
                                           row_bytes(), way_.chunks == 1));
      for (const int ticket : tickets_) exchange_.finish(space_, ticket);
      tickets_.clear();
      return;
    }
    RowTravel<float> travel(space_, exchange_, way_, gathered_, arrived_, unsorted_);
    for (int c = 0; c < way_.chunks; ++c) travel.start(c, way, way_.chunks == 1);
    for (int c = 0; c < way_.chunks; ++c) travel.finish(c, way);
  }
  ExchangeOptions options_;
  const Communicator& ranks_;
  ExecutionSpace space_;
  ExpertExchange exchange_;
  RawExchange raw_;
  Arena kept_{"bench::kept"}, scratch_{"bench::scratch"};
  Matrix<float> x_, y_, gathered_, arrived_, unsorted_;
  Vector<int> token_, expert_;
  DispatchPlan plan_;
  ExchangePlan way_, again_;
  std::vector<int> send_, receive_, tickets_;
};

/// One MoE layer, forward and backward, with its experts over all ranks or all on each rank.
class LayerBench {
 public:
  LayerBench(const ExchangeOptions& options, const Communicator& ranks, int rows, bool sharded)
      : ranks_(ranks),
        exchange_(ranks, options.parallel),
        store_(sharded ? ranks.rank() : 0, sharded ? ranks.size() : 1),
        layer_(config(options), 0, store_, "moe"),
        x_("bench::x", rows, options.d_model),
        y_("bench::y", rows, options.d_model),
        dy_("bench::dy", rows, options.d_model),
        dx_("bench::dx", rows, options.d_model) {
    store_.allocate(ctx_.space, 1);
    const PhiloxStream stream(2, Purpose::initialization, 0, 0, 0);
    const Matrix<float> x = x_, dy = dy_;
    const int columns = options.d_model;
    Kokkos::parallel_for(
        KOKOMOE_LABEL("bench::rows"), Kokkos::RangePolicy<ExecutionSpace>(ctx_.space, 0, rows),
        KOKKOS_LAMBDA(const int t) {
          for (int j = 0; j < columns; ++j) {
            const auto i = static_cast<std::uint32_t>(t * columns + j);
            x(t, j) = 3.4F * stream.template uniform<float>(i, 0, 0) - 1.7F;
            dy(t, j) = 1e-3F;
          }
        });
    ctx_.communicator = &ranks_;
    ctx_.exchange = sharded ? &exchange_ : nullptr;
    ctx_.saved = &saved_;
    ctx_.scratch = &scratch_;
    ctx_.tokens = number_rows(ctx_.space, rows, static_cast<std::int64_t>(ranks.rank()) * rows);
    ctx_.update_tokens = static_cast<double>(rows) * ranks.size();
  }

  void run() {
    saved_.reset();
    scratch_.reset();
    store_.begin_update();
    layer_.forward(ctx_, x_, y_, state_);
    layer_.backward(ctx_, state_, dy_, dx_);
  }
  const ExecutionSpace& space() const { return ctx_.space; }

 private:
  static MoeConfig config(const ExchangeOptions& options) {
    MoeConfig config;
    config.d_model = options.d_model;
    config.d_hidden = options.d_hidden;
    config.experts = options.experts;
    config.router = "switch";
    return config;
  }

  Communicator ranks_;
  ExpertExchange exchange_;
  ParameterStore<float> store_;
  MoeLayer<float> layer_;
  MoeLayer<float>::Saved state_;
  Arena saved_{"bench::saved"}, scratch_{"bench::scratch"};
  Matrix<float> x_, y_, dy_, dx_;
  StepContext ctx_;
};

/// Medians of a layer with all experts on each rank, and with its experts over the ranks.
struct LayerTimes {
  double alone = 0, sharded = 0;
};

LayerTimes time_layer(const ExchangeOptions& options, const Communicator& ranks, int rows) {
  LayerBench alone(options, ranks, rows, false), sharded(options, ranks, rows, true);
  std::vector<double> seconds[2];
  for (int i = 0; i < options.repeats + 2; ++i) {
    if (i == 2) seconds[0].clear(), seconds[1].clear();
    seconds[0].push_back(timed(alone.space(), ranks, [&] { alone.run(); }));
    seconds[1].push_back(timed(sharded.space(), ranks, [&] { sharded.run(); }));
  }
  return {median(seconds[0]), median(seconds[1])};
}

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

int bench_exchange(ExchangeOptions options, const Communicator& ranks) {
  if (ranks.size() < 2) throw InputError("bench exchange needs two ranks at least: mpirun -n 2 ...");
  options.parallel.staged = options.staging == "host";
  options.parallel.path = options.path == "flat"   ? ExchangePath::flat
                          : options.path == "node" ? ExchangePath::node
                                                   : ExchangePath::automatic;
  nlohmann::json rows = nlohmann::json::array();
  std::vector<double> all_bytes, all_seconds;
  for (const double mib : options.mib) {
    const double wanted = mib * 1048576 / (options.d_model * sizeof(float));
    const int count = std::max(1, static_cast<int>(std::min(wanted, 2147483647.0)));
    ExchangeBench bench(options, ranks, count);
    Times times;
    for (int i = 0; i < options.repeats + 2; ++i) {
      bench.run(times);
      if (i == 1) times = Times();
    }
    if (!bench.right()) throw Error("rows did not come back as they left");
    const double bytes = bench.bytes(), others = bench.bytes_to_others();
    const double raw = median(times.raw), transfer = median(times.transfer);
    const double counts = median(times.counts), dispatch = median(times.dispatch);
    const double combine = median(times.combine);
    all_bytes.push_back(others);
    all_seconds.push_back(raw);
    const LayerTimes layer =
        options.d_hidden > 0 ? time_layer(options, ranks, count) : LayerTimes();
    if (!ranks.is_root()) continue;
    std::FILE* const table = options.json == "-" ? stderr : stdout;
    if (rows.empty())
      std::fprintf(table,
                   "%d ranks, %d experts, rows of %d floats, %s; medians of %d, slowest rank\n"
                   "%9s %7s %10s %9s %9s %10s %10s   %s\n",
                   ranks.size(), options.experts, options.d_model, bench.description().c_str(),
                   options.repeats, "MiB/rank", "parts", "MPI ms", "MPI GB/s", "counts us",
                   "dispatch", "combine", "rate over MPI's: transfer dispatch combine");
    std::fprintf(table, "%9.3f %7d %10.3f %9.2f %9.1f %10.3f %10.3f   %26.2f %8.2f %7.2f\n",
                 bytes / 1048576, bench.chunks(), raw * 1e3, bytes / raw * 1e-9, counts * 1e6,
                 dispatch * 1e3, combine * 1e3, raw / transfer, raw / dispatch, raw / combine);
    if (options.d_hidden > 0)
      std::fprintf(table,
                   "          a layer, forward and backward: %.3f ms with all experts on each rank, "
                   "%.3f ms over the ranks\n",
                   layer.alone * 1e3, layer.sharded * 1e3);
    rows.push_back({{"ranks", ranks.size()},
                    {"bytes", bytes},
                    {"bytes_to_others", others},
                    {"chunks", bench.chunks()},
                    {"experts", options.experts},
                    {"d_model", options.d_model},
                    {"path", bench.description()},
                    {"mpi_ms", raw * 1e3},
                    {"transfer_ms", transfer * 1e3},
                    {"counts_ms", counts * 1e3},
                    {"dispatch_ms", dispatch * 1e3},
                    {"combine_ms", combine * 1e3},
                    {"mpi_gbs", bytes / raw * 1e-9},
                    {"transfer_over_mpi", raw / transfer},
                    {"dispatch_over_mpi", raw / dispatch},
                    {"combine_over_mpi", raw / combine}});
    if (options.d_hidden > 0) {
      rows.back()["d_hidden"] = options.d_hidden;
      rows.back()["layer_alone_ms"] = layer.alone * 1e3;
      rows.back()["layer_sharded_ms"] = layer.sharded * 1e3;
    }
  }
  if (!ranks.is_root()) return done;
  nlohmann::json machine = {{"ranks", ranks.size()}, {"cores", ExecutionSpace().concurrency()}};
  if (all_bytes.size() > 1) {
    double alpha = 0, beta = 0;
    fit_line(all_bytes, all_seconds, alpha, beta);
    std::fprintf(options.json == "-" ? stderr : stdout,
                 "MPI_Alltoallv: %.1f us + bytes to others / %.2f GB/s\n", alpha * 1e6, beta * 1e-9);
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
      "exchange", "rows to the ranks of their experts and back, against MPI_Alltoallv of the same "
                  "bytes, interleaved");
  command->add_option("--mib", options->mib, "sent by each rank, 2^20 bytes; several with commas")
      ->delimiter(',')
      ->check(CLI::PositiveNumber);
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
