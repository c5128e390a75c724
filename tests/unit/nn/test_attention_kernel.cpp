// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/error.hpp"
#include "kokomoe/core/philox.hpp"
#include "kokomoe/nn/attention_kernel.hpp"
#include "nn/attention_teams.hpp"
#include "support/catch.hpp"
#include "support/packed_step.hpp"

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

// On both sides of the blocks of 32 queries and of 64 or 128 keys, and of chunks of 128 queries.
const std::vector<int> lengths{1, 5, 32, 33, 64, 70, 130, 261};

/// What a build takes by itself, and the kernels of devices on any machine.
enum class Kernels { chosen, teams };

/// One attention with queries and keys of their own lengths, in host memory and on the device.
template <class T>
struct Problem {
  Problem(const std::vector<int>& query_lengths, const std::vector<int>& key_lengths, int heads_,
          int width_)
      : step(query_lengths), heads(heads_), width(width_) {
    key_offsets = {0};
    for (const int length : key_lengths) key_offsets.push_back(key_offsets.back() + length);
    const auto columns = static_cast<std::size_t>(heads * width);
    const auto keys = static_cast<std::size_t>(key_offsets.back());
    Draw draw(11);
    query = draw.many<T>(step.tokens() * columns, 2);
    key = draw.many<T>(keys * columns, 2);
    value = draw.many<T>(keys * columns);
    input.query = device_matrix(step.tokens(), columns, query);
    input.key = device_matrix(keys, columns, key);
    input.value = device_matrix(keys, columns, value);
    input.query_offsets = step.ctx.tokens.sequence_offsets;
    input.key_offsets = device_vector(key_offsets);
    input.position = step.ctx.tokens.position;
    input.sequences = step.ctx.tokens.sequences;
    input.max_queries = step.ctx.tokens.max_length;
    input.heads = heads;
    input.width = width;
    input.layer = 5;
    out = Matrix<T>("out", step.tokens(), columns);
    log_sum = Matrix<T>("log_sum", step.tokens(), static_cast<std::size_t>(heads));
  }

  void forward() {
    if (kernels == Kernels::teams)
      detail::attention_forward_teams<T>(step.ctx, input, out, log_sum);
    else
      attention_forward<T>(step.ctx, input, out, log_sum);
  }
  void backward(const Matrix<const T>& d_out, const Matrix<T>& dq, const Matrix<T>& dk,
                const Matrix<T>& dv) {
    if (kernels == Kernels::teams)
      detail::attention_backward_teams<T>(step.ctx, input, out, log_sum, d_out, dq, dk, dv);
    else
      attention_backward<T>(step.ctx, input, out, log_sum, d_out, dq, dk, dv);
  }

  /// The definition, with every score in memory, in double.
  std::vector<double> naive() const {
    const auto columns = static_cast<std::size_t>(heads * width);
    const std::vector<int> query_offsets = on_host(step.ctx.tokens.sequence_offsets);
    const std::vector<int> position = on_host(step.ctx.tokens.position);
    const std::vector<std::uint32_t> sequence = on_host(step.ctx.tokens.sequence_index);
    const PhiloxStream stream(step.ctx.seed, Purpose::attention_dropout, step.ctx.step,
                              static_cast<std::uint32_t>(input.layer), step.ctx.replica);
    std::vector<double> result(step.tokens() * columns, 0.0);
    for (std::size_t b = 0; b + 1 < query_offsets.size(); ++b)
      for (int h = 0; h < heads; ++h)
        for (int i = query_offsets[b]; i < query_offsets[b + 1]; ++i) {
          const auto t = static_cast<std::size_t>(i);
          const int keys = key_offsets[b + 1] - key_offsets[b];
          const int visible = input.causal ? std::min(keys, position[t] + 1) : keys;
          std::vector<double> score(static_cast<std::size_t>(visible));
          double sum = 0, most = -1e300;
          for (int j = 0; j < visible; ++j) {
            double dot = 0;
            for (int c = 0; c < width; ++c)
              dot += static_cast<double>(query[t * columns + at(h, c)]) *
                     static_cast<double>(key[row(b, j) * columns + at(h, c)]);
            score[static_cast<std::size_t>(j)] = dot / std::sqrt(static_cast<double>(width));
            most = std::max(most, score[static_cast<std::size_t>(j)]);
          }
          for (double& s : score) sum += s = std::exp(s - most);
          for (int j = 0; j < visible; ++j) {
            double p = score[static_cast<std::size_t>(j)] / sum;
            if (input.dropout > 0 && step.ctx.training)
              p *= stream.uniform<T>(sequence[t], static_cast<std::uint32_t>(position[t]),
                                     static_cast<std::uint32_t>(j),
                                     static_cast<std::uint32_t>(h)) > static_cast<T>(input.dropout)
                       ? 1 / (1 - input.dropout)
                       : 0;
            for (int c = 0; c < width; ++c)
              result[t * columns + at(h, c)] +=
                  p * static_cast<double>(value[row(b, j) * columns + at(h, c)]);
          }
        }
    return result;
  }

  std::size_t at(int head, int channel) const {
    return static_cast<std::size_t>(head * width + channel);
  }
  std::size_t row(std::size_t sequence, int j) const {
    return static_cast<std::size_t>(key_offsets[sequence] + j);
  }

  PackedStep step;
  Kernels kernels = Kernels::chosen;
  int heads, width;
  std::vector<int> key_offsets;
  std::vector<T> query, key, value;
  AttentionInput<T> input;
  Matrix<T> out, log_sum;
};

}  // namespace

TEST_CASE("attention agrees with its definition in double, with and without dropout", "[nn]") {
  const double dropout = GENERATE(0.0, 0.3);
  const bool causal = GENERATE(true, false);
  Problem<double> problem(lengths, lengths, 3, GENERATE(5, 16));
  problem.kernels = GENERATE(Kernels::chosen, Kernels::teams);
  problem.input.dropout = dropout;
  problem.input.causal = causal;
  problem.forward();
  CHECK(worst_error(on_host(problem.out), problem.naive()) < 1e-13);
  problem.step.ctx.training = false;
  problem.forward();
  CHECK(worst_error(on_host(problem.out), problem.naive()) < 1e-13);
}

TEST_CASE("attention in float agrees with its definition in double to 1e-5", "[nn]") {
  Problem<float> problem(lengths, lengths, 2, GENERATE(16, 20, 64));
  problem.kernels = GENERATE(Kernels::chosen, Kernels::teams);
  problem.input.dropout = GENERATE(0.0, 0.3);
  problem.forward();
  CHECK(worst_error(on_host(problem.out), problem.naive()) < 1e-5);
}

TEST_CASE("attention takes keys of other lengths than queries", "[nn]") {
  Problem<double> problem({3, 40, 0, 65}, {70, 1, 9, 129}, 2, 4);
  problem.kernels = GENERATE(Kernels::chosen, Kernels::teams);
  problem.input.causal = false;
  problem.forward();
  CHECK(worst_error(on_host(problem.out), problem.naive()) < 1e-13);
}

TEST_CASE("attention does not look at later tokens or at other sequences", "[nn]") {
  Problem<double> problem({70, 70}, {70, 70}, 2, 4);
  problem.kernels = GENERATE(Kernels::chosen, Kernels::teams);
  problem.forward();
  const std::vector<double> before = on_host(problem.out);
  const std::size_t columns = 8, changed = 40;
  std::vector<double> key = problem.key, value = problem.value;
  for (std::size_t c = 0; c < columns; ++c) {
    key[changed * columns + c] += 1;
    value[changed * columns + c] = 1e200;
  }
  problem.input.key = device_matrix<double>(140, columns, key);
  problem.input.value = device_matrix<double>(140, columns, value);
  problem.forward();
  const std::vector<double> after = on_host(problem.out);
  for (std::size_t t = 0; t < 140; ++t)
    for (std::size_t c = 0; c < columns; ++c) {
      if (t >= changed && t < 70)
        REQUIRE(after[t * columns + c] > 1e150);
      else
        REQUIRE(after[t * columns + c] == before[t * columns + c]);
    }
}

TEST_CASE("attention stands scores of +-1e4 and equal ones", "[nn]") {
  Problem<double> problem({70}, {70}, 1, 4);
  problem.kernels = GENERATE(Kernels::chosen, Kernels::teams);
  for (double& q : problem.query) q *= 5e3;
  problem.input.query = device_matrix<double>(70, 4, problem.query);
  problem.forward();
  CHECK(worst_error(on_host(problem.out), problem.naive()) < 1e-11);
  for (double& q : problem.query) q = 0;
  problem.input.query = device_matrix<double>(70, 4, problem.query);
  problem.forward();
  CHECK(worst_error(on_host(problem.out), problem.naive()) < 1e-13);
}

TEST_CASE("attention's gradients by query, key and value are those of differences", "[nn]") {
  const bool causal = GENERATE(true, false);
  const double dropout = GENERATE(0.0, 0.3);
  Problem<double> problem(lengths, lengths, 2, 3);
  problem.kernels = GENERATE(Kernels::chosen, Kernels::teams);
  problem.input.causal = causal;
  problem.input.dropout = dropout;
  const std::size_t rows = problem.step.tokens(), columns = 6;
  Draw draw(12);
  const std::vector<double> weight = draw.many<double>(rows * columns);
  const Matrix<double> d_out = device_matrix(rows, columns, weight);
  const auto loss = [&]() {
    problem.forward();
    const std::vector<double> out = on_host(problem.out);
    double sum = 0;
    for (std::size_t i = 0; i < out.size(); ++i) sum += weight[i] * out[i];
    return sum;
  };
  loss();
  // What lies there before is overwritten.
  const std::vector<double> old(rows * columns, 1e30);
  const Matrix<double> dq = device_matrix(rows, columns, old),
                       dk = device_matrix(rows, columns, old),
                       dv = device_matrix(rows, columns, old);
  problem.backward(d_out, dq, dk, dv);
  const Matrix<double> q(const_cast<double*>(problem.input.query.data()), rows, columns);
  const Matrix<double> k(const_cast<double*>(problem.input.key.data()), rows, columns);
  const Matrix<double> v(const_cast<double*>(problem.input.value.data()), rows, columns);
  CHECK(worst_difference(q, on_host(dq), loss, 120) < 1e-7);
  CHECK(worst_difference(k, on_host(dk), loss, 120) < 1e-7);
  CHECK(worst_difference(v, on_host(dv), loss, 120) < 1e-7);
}

TEST_CASE("gradients of attention in float are those in double to 1e-5", "[nn]") {
  // Heads of whole vectors and others, several blocks of keys.
  // error.
  const int width = GENERATE(8, 32, 40);
  const std::vector<int> some{129, 300, 31};
  Problem<double> exact(some, some, 2, width);
  Problem<float> problem(some, some, 2, width);
  const bool causal = GENERATE(true, false);
  exact.input.causal = problem.input.causal = causal;
  exact.input.dropout = problem.input.dropout = 0;
  exact.kernels = Kernels::teams;
  const std::size_t rows = exact.step.tokens(), columns = static_cast<std::size_t>(2 * width);
  const auto widen = [&](const std::vector<float>& x) {
    return device_matrix(rows, columns, std::vector<double>(x.begin(), x.end()));
  };
  exact.input.query = widen(problem.query);
  exact.input.key = widen(problem.key);
  exact.input.value = widen(problem.value);
  Draw draw(13);
  const std::vector<float> weight = draw.many<float>(rows * columns);
  const auto gradients = [&](auto& of, auto d_out) {
    using T = typename decltype(d_out)::non_const_value_type;
    of.forward();
    std::vector<std::vector<T>> all;
    const Matrix<T> dq("dq", rows, columns), dk("dk", rows, columns), dv("dv", rows, columns);
    of.backward(d_out, dq, dk, dv);
    for (const Matrix<T>& d : {dq, dk, dv}) all.push_back(on_host(d));
    return all;
  };
  const auto expected = gradients(exact, widen(weight));
  const auto found = gradients(problem, device_matrix(rows, columns, weight));
  for (std::size_t i = 0; i < 3; ++i) CHECK(worst_error(found[i], expected[i]) < 1e-5);
}

TEST_CASE("attention of no sequences does nothing and wrong shapes are refused", "[nn]") {
  Problem<double> none({}, {}, 2, 4);
  none.forward();
  Problem<double> problem({3}, {3}, 2, 4);
  problem.out = Matrix<double>("out", 3, 7);
  const std::string message = message_of<Error>([&] { problem.forward(); });
  CHECK_THAT(message, contains("(3, 7)"));
  CHECK_THAT(message, contains("(3, 8)"));
}
