// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "bench_tools.hpp"

#include "kokomoe/config.hpp"
#include "kokomoe/core/philox.hpp"
#include "kokomoe/moe/combine.hpp"
#include "kokomoe/moe/dispatch_plan.hpp"
#include "kokomoe/moe/moe_layer.hpp"
#include "kokomoe/moe/row_travel.hpp"
#ifdef KOKOMOE_HAVE_MPI
#include "kokomoe/parallel/mpi.hpp"
#endif

#include <numeric>
#include <string>
#include <vector>

namespace kokomoe::app {

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

// Functions of their own: nvcc takes no kernel in a constructor.

/// Rows that belong to random experts. `first`: global index of row 0.
inline void fill_assigned_rows(const ExecutionSpace& space, int experts, int first,
                               const Matrix<float>& x, const Vector<int>& token,
                               const Vector<int>& expert) {
  const PhiloxStream stream(1, Purpose::initialization, 0, 0, 0);
  const int columns = static_cast<int>(x.extent(1));
  Kokkos::parallel_for(
      KOKOMOE_LABEL("bench::rows"), Kokkos::RangePolicy<ExecutionSpace>(space, 0, x.extent(0)),
      KOKKOS_LAMBDA(const int t) {
        const auto u = stream.template uniform<float>(static_cast<std::uint32_t>(first + t), 0, 0);
        token(t) = t;
        expert(t) = static_cast<int>(u * static_cast<float>(experts)) % experts;
        for (int j = 0; j < columns; ++j) x(t, j) = u + static_cast<float>(j);
      });
}

/// Rows of about unit variance, small gradients.
inline void fill_rows_and_gradients(const ExecutionSpace& space, const Matrix<float>& x,
                                    const Matrix<float>& dy) {
  const PhiloxStream stream(2, Purpose::initialization, 0, 0, 0);
  const int columns = static_cast<int>(x.extent(1));
  Kokkos::parallel_for(
      KOKOMOE_LABEL("bench::rows"), Kokkos::RangePolicy<ExecutionSpace>(space, 0, x.extent(0)),
      KOKKOS_LAMBDA(const int t) {
        for (int j = 0; j < columns; ++j) {
          const auto i = static_cast<std::uint32_t>(t * columns + j);
          x(t, j) = 3.4F * stream.template uniform<float>(i, 0, 0) - 1.7F;
          dy(t, j) = 1e-3F;
        }
      });
}

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
    const int experts = options.experts, columns = options.d_model;
    fill_assigned_rows(space_, experts, ranks.rank() * rows, x_, token_, expert_);
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
    times.raw.push_back(timed(
        space_, ranks_, [&] { raw_.run(send_, gathered_.data(), receive_, arrived_.data()); }));
    times.transfer.push_back(
        timed(space_, ranks_, [&] { move(ExpertExchange::Way::to_experts, false); }));
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
class ShardedLayerBench {
 public:
  ShardedLayerBench(const ExchangeOptions& options, const Communicator& ranks, int rows,
                    bool sharded)
      : ranks_(ranks),
        exchange_(ranks, options.parallel),
        store_(sharded ? ranks.rank() : 0, sharded ? ranks.size() : 1),
        layer_(config(options), 0, store_, "moe"),
        x_("bench::x", rows, options.d_model),
        y_("bench::y", rows, options.d_model),
        dy_("bench::dy", rows, options.d_model),
        dx_("bench::dx", rows, options.d_model) {
    store_.allocate(ctx_.space, 1);
    fill_rows_and_gradients(ctx_.space, x_, dy_);
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

inline LayerTimes time_layer(const ExchangeOptions& options, const Communicator& ranks, int rows) {
  ShardedLayerBench alone(options, ranks, rows, false), sharded(options, ranks, rows, true);
  std::vector<double> seconds[2];
  for (int i = 0; i < options.repeats + 2; ++i) {
    if (i == 2) seconds[0].clear(), seconds[1].clear();
    seconds[0].push_back(timed(alone.space(), ranks, [&] { alone.run(); }));
    seconds[1].push_back(timed(sharded.space(), ranks, [&] { sharded.run(); }));
  }
  return {median(seconds[0]), median(seconds[1])};
}

#endif

}  // namespace kokomoe::app
