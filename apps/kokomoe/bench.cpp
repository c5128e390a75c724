// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "bench_tools.hpp"
#include "command.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/core/gemm.hpp"
#include "kokomoe/core/placement.hpp"
#include "kokomoe/moe/moe_layer.hpp"

#include <algorithm>
#include <cstdio>
#include <memory>
#include <numeric>

namespace kokomoe::app {

namespace {

struct LayerOptions {
  int tokens = 4096, d_model = 512, d_hidden = 2048, repeats = 11;
  std::vector<int> experts = {4, 16, 64};
  std::vector<std::string> routers = {"switch", "sparsemixer"};
  std::string dtype = "float", activation = "relu", json;
};

template <class T>
void fill(const Matrix<T>& matrix, std::uint64_t seed, double scale) {
  const PhiloxStream stream(seed, Purpose::initialization, 0, 0, 0);
  const std::size_t columns = matrix.extent(1);
  Kokkos::parallel_for(
      KOKOMOE_LABEL("bench::fill"), Kokkos::RangePolicy<ExecutionSpace>(0, matrix.size()),
      KOKKOS_LAMBDA(const std::size_t i) {
        matrix(i / columns, i % columns) =
            static_cast<T>(scale) *
            (T(2) * stream.template uniform<T>(static_cast<std::uint32_t>(i), 0, 0) - T(1));
      });
  Kokkos::fence();
}

constexpr int vocabulary = 256;

Vector<int> some_ids(int tokens) {
  const Vector<int> ids("bench::ids", static_cast<std::size_t>(tokens));
  Kokkos::parallel_for(
      KOKOMOE_LABEL("bench::ids"), Kokkos::RangePolicy<ExecutionSpace>(0, tokens),
      KOKKOS_LAMBDA(const int t) { ids(t) = t * 37 % vocabulary; });
  Kokkos::fence();
  return ids;
}

/// One thing to time: forward and backward seconds of each repeat, and shares where it has any.
struct Case {
  std::string router;
  int experts = 0;
  std::vector<double> forward, backward;
  double rows = 0;  ///< that experts computed, a mean over the repeats
  std::vector<double> parts[4];  // router, dispatch, experts, combine
};

template <class T>
class LayerBench {
 public:
  explicit LayerBench(const LayerOptions& options)
      : options_(options),
        saved_("bench::saved"),
        scratch_("bench::scratch"),
        x_("bench::x", options.tokens, options.d_model),
        y_("bench::y", options.tokens, options.d_model),
        dy_("bench::dy", options.tokens, options.d_model),
        dx_("bench::dx", options.tokens, options.d_model) {
    fill(x_, 1, 1.7);
    fill(dy_, 2, 1e-3);
    ctx_.communicator = &communicator_;
    ctx_.saved = &saved_;
    ctx_.scratch = &scratch_;
    ctx_.tokens = number_rows(ctx_.space, options.tokens);
    ctx_.seed = 1;
    ctx_.update_tokens = options.tokens;
    ctx_.loss_scale = 1.0 / options.tokens;
    // For routers that read token ids or losses: some of each.
    ctx_.tokens.ids = some_ids(options.tokens);
    const Vector<double> loss("bench::loss", 1);
    Kokkos::deep_copy(loss, static_cast<double>(options.tokens));
    ctx_.sequence_loss = loss;
  }

  void dense(Case& result, ParameterStore<T>& store, const Experts<T>& experts) {
    typename Experts<T>::Saved state;
    const int rows[] = {0, options_.tokens};
    saved_.reset();
    scratch_.reset();
    store.begin_update();
    Timer timer(ctx_.space);
    experts.forward(ctx_.space, saved_, scratch_, x_, rows, {}, y_, state);
    result.forward.push_back(timer.lap());
    experts.backward(ctx_.space, scratch_, state, rows, {}, dy_, {}, dx_, {});
    result.backward.push_back(timer.lap());
  }

  void sparse(Case& result, ParameterStore<T>& store, MoeLayer<T>& layer,
              typename MoeLayer<T>::Saved& state) {
    // Timed whole first; the shares come from a second pass whose parts are fenced.
    for (const bool parts : {false, true}) {
      layer.time_parts(parts);
      saved_.reset();
      scratch_.reset();
      store.begin_update();
      Timer timer(ctx_.space);
      layer.forward(ctx_, x_, y_, state);
      const double forward = timer.lap();
      layer.backward(ctx_, state, dy_, dx_);
      const double backward = timer.lap();
      if (parts) {
        const double seconds[] = {state.seconds_router, state.seconds_dispatch,
                                  state.seconds_experts, state.seconds_combine};
        for (int i = 0; i < 4; ++i) result.parts[i].push_back(seconds[i]);
      } else {
        result.forward.push_back(forward);
        result.backward.push_back(backward);
        result.rows += state.plan.rows();
        ++ctx_.step;
      }
    }
  }

  const ExecutionSpace& space() const { return ctx_.space; }

 private:
  LayerOptions options_;
  Communicator communicator_;
  Arena saved_, scratch_;
  Matrix<T> x_, y_, dy_, dx_;
  StepContext ctx_;
};

template <class T>
int bench_layer(const LayerOptions& options) {
  const Activation activation = parse_activation(options.activation);
  LayerBench<T> bench(options);
  ParameterStore<T> dense_store;
  const Experts<T> dense({1, options.d_model, options.d_hidden, activation, true, false, 1},
                         dense_store, "dense");
  dense_store.allocate(bench.space(), 1);

  struct Sparse {
    ParameterStore<T> store;
    std::unique_ptr<MoeLayer<T>> layer;
    typename MoeLayer<T>::Saved state;
    Case result;
  };
  std::vector<std::unique_ptr<Sparse>> layers;
  for (const int experts : options.experts) {
    for (const std::string& router : options.routers) {
      auto entry = std::make_unique<Sparse>();
      MoeConfig config;
      config.d_model = options.d_model;
      config.d_hidden = options.d_hidden;
      config.experts = experts;
      config.activation = activation;
      config.bias = true;
      config.router = router;
      set_router_defaults(config);
      config.vocabulary = vocabulary;
      entry->layer = std::make_unique<MoeLayer<T>>(config, 0, entry->store, "moe");
      entry->store.allocate(bench.space(), 1);
      entry->result.router = router;
      entry->result.experts = experts;
      layers.push_back(std::move(entry));
    }
  }

  // The machine's limits, in the same interleaved run.
  const std::size_t n = 2048, stream = std::size_t(1) << 25;
  const Matrix<T> a("bench::a", n, n), b("bench::b", n, n), c("bench::c", n, n);
  fill(a, 3, 1);
  fill(b, 4, 1);
  const Vector<T> from("bench::from", stream), to("bench::to", stream);
  std::vector<double> gemm_seconds, stream_seconds;
  Case dense_result;
  dense_result.router = "dense";
  dense_result.experts = 1;
  constexpr int warm_up = 2;
  for (int i = 0; i < options.repeats + warm_up; ++i) {
    if (i == warm_up) {
      gemm_seconds.clear();
      stream_seconds.clear();
      dense_result.forward.clear();
      dense_result.backward.clear();
      for (auto& entry : layers) {
        entry->result.forward.clear();
        entry->result.backward.clear();
        entry->result.rows = 0;
        for (auto& part : entry->result.parts) part.clear();
      }
    }
    Timer timer(bench.space());
    gemm<T>(bench.space(), Transpose::no, Transpose::no, T(1), a, b, T(0), c);
    gemm_seconds.push_back(timer.lap());
    Kokkos::parallel_for(
        KOKOMOE_LABEL("bench::stream"),
        Kokkos::RangePolicy<ExecutionSpace>(bench.space(), 0, stream),
        KOKKOS_LAMBDA(const std::size_t j) { to(j) = T(2) * from(j); });
    stream_seconds.push_back(timer.lap());
    bench.dense(dense_result, dense_store, dense);
    for (auto& entry : layers)
      bench.sparse(entry->result, entry->store, *entry->layer, entry->state);
  }

  const double gemm_gflops = 2.0 * n * n * n / median(gemm_seconds) * 1e-9;
  const double stream_gbs = 2.0 * stream * sizeof(T) / median(stream_seconds) * 1e-9;
  const double matrices = activation == Activation::swiglu ? 3 : 2;
  const double row_flops = 2.0 * matrices * options.d_model * options.d_hidden * 3;
  std::FILE* const table = options.json == "-" ? stderr : stdout;
  if (const std::string warning = placement_warning(); !warning.empty())
    std::fprintf(table, "%s\n", warning.c_str());
  std::fprintf(table,
               "%s; T %d, d %d, h %d, %s; GEMM %.1f GFLOP/s, stream %.1f GB/s (medians of %d)\n",
               gemm_library().c_str(), options.tokens, options.d_model, options.d_hidden,
               options.dtype.c_str(), gemm_gflops, stream_gbs, options.repeats);
  std::fprintf(table, "%-20s %7s %9s %9s %9s %8s %8s   %s\n", "router", "experts", "fwd ms",
               "bwd ms", "GFLOP/s", "of GEMM", "of dense", "router dispatch experts combine");
  nlohmann::json rows = nlohmann::json::array();
  double dense_rate = 0;
  const auto report = [&](const Case& result) {
    const double forward = median(result.forward), backward = median(result.backward);
    const double computed = result.rows > 0 ? result.rows / options.repeats : options.tokens;
    const double rate = row_flops * computed / (forward + backward) * 1e-9;
    if (result.router == "dense") dense_rate = rate;
    double shares[4] = {0, 0, 1, 0};
    if (!result.parts[0].empty()) {
      double total = 0;
      for (int i = 0; i < 4; ++i) total += shares[i] = median(result.parts[i]);
      for (double& share : shares) share /= total;
    }
    std::fprintf(table, "%-20s %7d %9.2f %9.2f %9.1f %8.3f %8.3f   %6.3f %8.3f %7.3f %7.3f\n",
                result.router.c_str(), result.experts, forward * 1e3, backward * 1e3, rate,
                rate / gemm_gflops, rate / dense_rate, shares[0], shares[1], shares[2], shares[3]);
    rows.push_back({{"router", result.router},
                    {"experts", result.experts},
                    {"tokens", options.tokens},
                    {"rows", computed},
                    {"d_model", options.d_model},
                    {"d_hidden", options.d_hidden},
                    {"dtype", options.dtype},
                    {"activation", options.activation},
                    {"forward_ms", forward * 1e3},
                    {"backward_ms", backward * 1e3},
                    {"gflops", rate},
                    {"share_router", shares[0]},
                    {"share_dispatch", shares[1]},
                    {"share_experts", shares[2]},
                    {"share_combine", shares[3]}});
  };
  report(dense_result);
  for (const auto& entry : layers) report(entry->result);
  write_json(options.json, {{"results", rows},
                            {"machine",
                             {{"gemm_gflops", gemm_gflops},
                              {"stream_gbs", stream_gbs},
                              {"blas", gemm_library()},
                              {"cores", ExecutionSpace().concurrency()}}}});
  return done;
}

}  // namespace

void add_bench(CLI::App& program, Action& action) {
  CLI::App* bench = program.add_subcommand("bench", "measure this machine and this build");
  bench->require_subcommand(1);
  add_bench_exchange(*bench, action);
  auto options = std::make_shared<LayerOptions>();
  CLI::App* command = bench->add_subcommand(
      "layer", "an MoE layer, forward and backward, against the dense layer of the same active "
               "size and the GEMM rate, interleaved");
  command->add_option("--tokens", options->tokens)->check(CLI::PositiveNumber);
  command->add_option("--d-model", options->d_model)->check(CLI::PositiveNumber);
  command->add_option("--d-hidden", options->d_hidden)->check(CLI::PositiveNumber);
  command->add_option("--experts", options->experts)->delimiter(',')->check(CLI::PositiveNumber);
  command->add_option("--router", options->routers)->delimiter(',');
  command->add_option("--activation", options->activation);
  command->add_option("--dtype", options->dtype)->check(CLI::IsMember({"float", "double"}));
  command->add_option("--repeats", options->repeats)->check(CLI::PositiveNumber);
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
