// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/error.hpp"
#include "kokomoe/moe/experts.hpp"
#include "support/bfloat16.hpp"
#include "support/catch.hpp"
#include "support/host_arrays.hpp"

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <limits>

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

struct Case {
  int d, h;
  Activation activation;
  bool bias, weighted;
  std::vector<int> offsets;
  /// What multiplies d_out's columns: nothing, numbers about 1, or also zero and 1e-9.
  enum class Factor { none, plain, with_zero } factor = Factor::none;

  int rows() const { return offsets.back(); }
  int experts() const { return static_cast<int>(offsets.size()) - 1; }
  int width() const { return first_width(activation, h); }
};

// Fewer rows than a vector, none, whole vectors, several blocks; channels that end within vectors,
// tiles and chunks; more hidden channels than go through at a time.
const std::vector<Case> cases = {
    {5, 7, Activation::relu, true, true, {0, 3, 3, 20}},
    {70, 150, Activation::gelu, true, true, {0, 1, 98, 98, 300, 316}},
    {48, 130, Activation::swiglu, true, false, {0, 200, 201, 201}},
    {33, 64, Activation::swiglu, false, true, {0, 97, 130}},
    {9, 2100, Activation::relu, false, false, {0, 40, 150}},
    {16, 16, Activation::relu, true, true, {0, 0, 0, 0}},
    {70, 150, Activation::gelu, true, true, {0, 1, 98, 98, 300, 316}, Case::Factor::plain},
    {64, 192, Activation::relu, true, true, {0, 60, 60, 300}, Case::Factor::plain},
    {40, 128, Activation::swiglu, false, false, {0, 33, 233}, Case::Factor::plain},
    {32, 80, Activation::relu, true, true, {0, 50, 260}, Case::Factor::plain},
    {64, 192, Activation::relu, true, true, {0, 60, 700}},
    {64, 192, Activation::relu, true, true, {0, 60, 700}, Case::Factor::plain},
    {44, 72, Activation::gelu, true, true, {0, 50, 260}, Case::Factor::plain},
    {64, 128, Activation::relu, true, true, {0, 60, 300}, Case::Factor::with_zero},
    {16, 16, Activation::relu, true, true, {0, 0, 0, 0}, Case::Factor::plain},
};

/// What goes in and what comes out, (n, d) row by row and tensors as they are stored.
template <class T>
struct Values {
  std::vector<T> out, d_rows, d_weight, w1, b1, w2, b2, d_factor;
};

template <class T>
struct Inputs {
  std::vector<T> rows, d_out, weight, factor;

  explicit Inputs(const Case& c)
      : rows(Draw(1).many<T>(static_cast<std::size_t>(c.rows() * c.d))),
        d_out(Draw(2).many<T>(static_cast<std::size_t>(c.rows() * c.d))),
        weight(Draw(3).many<T>(static_cast<std::size_t>(c.rows()))),
        factor(Draw(4).many<T>(static_cast<std::size_t>(c.d))) {
    if (c.factor == Case::Factor::with_zero) {
      factor[0] = 0;
      factor[9] = T(1e-9);
    }
  }
};

template <class T>
class Layer {
 public:
  Layer(const Case& c, ExpertKernels kernels, bool round_weights = false) : case_(c) {
    ExpertsConfig config{c.experts(), c.d, c.h, c.activation, c.bias};
    config.kernels = kernels;
    config.round_weights = round_weights;
    experts_.emplace(config, store, "e");
    store.allocate(ExecutionSpace(), 7);
    if (!c.bias) return;
    for (const char* name : {"e.b1", "e.b2"}) {
      const Matrix<T> bias = store.value(store.find(name));
      fill_device(bias, Draw(5).many<T>(bias.size(), 0.3));
    }
  }

  /// Forward once, backward `times` times into the same gradients.
  Values<T> run(const Inputs<T>& in, int times, bool round_kept = false) {
    const auto n = static_cast<std::size_t>(case_.rows()), d = static_cast<std::size_t>(case_.d);
    std::vector<int> expert_of_row;
    for (int e = 0; e < case_.experts(); ++e)
      expert_of_row.resize(static_cast<std::size_t>(case_.offsets[static_cast<std::size_t>(e) + 1]),
                           e);
    const Vector<int> expert = device_vector(expert_of_row);
    const Matrix<T> rows = device_matrix(n, d, in.rows), d_out = device_matrix(n, d, in.d_out);
    const Vector<T> weight = case_.weighted ? device_vector(in.weight) : Vector<T>();
    const Matrix<T> out("out", n, d), d_rows("d_rows", n, d);
    const Vector<T> d_weight("d_weight", n);
    Arena saved("saved"), scratch("scratch");
    typename Experts<T>::Saved state;
    const ExecutionSpace space;
    PickedRows<T> picked = d_out;
    if (case_.factor != Case::Factor::none) picked.factor = device_vector(in.factor);
    const bool summed = case_.factor != Case::Factor::none && experts_->sums_factor(false);
    const Vector<T> d_factor("d_factor", summed ? d : 0);
    experts_->forward(space, saved, scratch, rows, case_.offsets, expert, out, state,
                      {false, {}, round_kept});
    saved_bytes = saved.high_water();
    store.begin_update();
    for (int i = 0; i < times; ++i)
      experts_->backward(space, scratch, state, case_.offsets, expert, picked, weight, d_rows,
                         d_weight, d_factor);
    const auto gradient = [&](const char* name) {
      return case_.bias || name[2] == 'w' ? on_host(store.gradient(store.find(name)))
                                          : std::vector<T>();
    };
    return {on_host(out),     on_host(d_rows),  on_host(d_weight), gradient("e.w1"),
            gradient("e.b1"), gradient("e.w2"), gradient("e.b2"),  on_host(d_factor)};
  }

  bool sums_factor() const { return experts_->sums_factor(false); }

  ParameterStore<T> store;
  std::size_t saved_bytes = 0;  ///< of the last run

 private:
  Case case_;
  std::optional<Experts<T>> experts_;
};

double value(Activation activation, double z, double up) {
  if (activation == Activation::relu) return z > 0 ? z : 0;
  if (activation == Activation::gelu) return z * 0.5 * std::erfc(-z / std::sqrt(2.0));
  return z / (1 + std::exp(-z)) * up;
}

/// d value / d z; for swiglu by the gate.
double derivative(Activation activation, double z, double up) {
  if (activation == Activation::relu) return z > 0 ? 1 : 0;
  if (activation == Activation::gelu)
    return 0.5 * std::erfc(-z / std::sqrt(2.0)) +
           z * std::exp(-0.5 * z * z) / std::sqrt(2 * std::acos(-1.0));
  const double sigmoid = 1 / (1 + std::exp(-z));
  return up * sigmoid * (1 + z * (1 - sigmoid));
}

/// The definition, row by row in double. `rounded`: backward knows what bfloat16 keeps of the
/// hidden layer.
template <class T>
Values<double> expected(const Case& c, const Inputs<T>& in, ParameterStore<T>& store,
                        bool rounded = false) {
  const int d = c.d, h = c.h, width = c.width();
  const auto read = [&](const char* name) {
    return c.bias || name[2] == 'w' ? on_host(store.value(store.find(name))) : std::vector<T>();
  };
  const auto w1 = read("e.w1"), b1 = read("e.b1"), w2 = read("e.w2"), b2 = read("e.b2");
  const auto zeros = [](std::size_t n) { return std::vector<double>(n, 0); };
  const std::size_t columns = in.factor.size();
  Values<double> v{zeros(in.rows.size()), zeros(in.rows.size()), zeros(in.weight.size()),
                   zeros(w1.size()),      zeros(b1.size()),      zeros(w2.size()),
                   zeros(b2.size()),      zeros(columns)};
  const auto at = [](auto... i) { return static_cast<std::size_t>((i + ...)); };
  const auto d_out = [&](int r, int i) {
    const double factor =
        c.factor == Case::Factor::none ? 1 : static_cast<double>(in.factor[at(i)]);
    return factor * static_cast<double>(in.d_out[at(r * d, i)]);
  };
  for (int e = 0; e < c.experts(); ++e)
    for (int r = c.offsets[at(e)]; r < c.offsets[at(e, 1)]; ++r) {
      const double weight = c.weighted ? static_cast<double>(in.weight[at(r)]) : 1;
      std::vector<double> z(at(width)), a(at(h));
      for (int j = 0; j < width; ++j) {
        z[at(j)] = c.bias ? static_cast<double>(b1[at(e * width, j)]) : 0;
        for (int i = 0; i < d; ++i)
          z[at(j)] += static_cast<double>(w1[at((e * width + j) * d, i)]) *
                      static_cast<double>(in.rows[at(r * d, i)]);
      }
      const auto up = [&](int j) { return width == h ? 0 : z[at(h, j)]; };
      const auto output = [&](int i) {
        double y = c.bias ? static_cast<double>(b2[at(e * d, i)]) : 0;
        for (int j = 0; j < h; ++j) y += static_cast<double>(w2[at((e * d + i) * h, j)]) * a[at(j)];
        return y;
      };
      for (int j = 0; j < h; ++j) a[at(j)] = value(c.activation, z[at(j)], up(j));
      for (int i = 0; i < d; ++i) v.out[at(r * d, i)] = output(i);
      for (double& number : z)
        if (rounded) number = nearest_bfloat16(static_cast<float>(number));
      for (int j = 0; j < h; ++j) a[at(j)] = value(c.activation, z[at(j)], up(j));
      for (int i = 0; i < d; ++i) {
        const double y = output(i);
        v.d_factor[at(i)] += weight * static_cast<double>(in.d_out[at(r * d, i)]) * y;
        const double g = d_out(r, i);
        v.d_weight[at(r)] += g * y;
        if (c.bias) v.b2[at(e * d, i)] += weight * g;
        for (int j = 0; j < h; ++j) v.w2[at((e * d + i) * h, j)] += weight * g * a[at(j)];
      }
      for (int j = 0; j < h; ++j) {
        double da = 0;
        for (int i = 0; i < d; ++i)
          da += weight * d_out(r, i) * static_cast<double>(w2[at((e * d + i) * h, j)]);
        const auto channel = [&](int row, double dz) {
          if (c.bias) v.b1[at(e * width, row)] += dz;
          for (int i = 0; i < d; ++i) {
            v.w1[at((e * width + row) * d, i)] += dz * static_cast<double>(in.rows[at(r * d, i)]);
            v.d_rows[at(r * d, i)] += dz * static_cast<double>(w1[at((e * width + row) * d, i)]);
          }
        };
        channel(j, da * derivative(c.activation, z[at(j)], up(j)));
        if (width != h) channel(h + j, da * z[at(j)] / (1 + std::exp(-z[at(j)])));
      }
    }
  return v;
}

std::vector<ExpertKernels> kernels_here() {
  try {
    return {ExpertKernels::gemm, parse_expert_kernels("blocks")};
  } catch (const InputError&) {
    return {ExpertKernels::gemm};
  }
}

}  // namespace

TEMPLATE_TEST_CASE("experts multiply as they are defined, with either kernels", "[experts]", float,
                   double) {
  using T = TestType;
  const double tolerance = 4000 * static_cast<double>(std::numeric_limits<T>::epsilon());
  for (const ExpertKernels kernels : kernels_here())
    for (const Case& c : cases) {
      CAPTURE(to_string(kernels), c.d, c.h, c.offsets);
      const Inputs<T> in(c);
      Layer<T> layer(c, kernels);
      // Where blocks run they give the gradient by the factor, and nothing else does.
      CHECK(layer.sums_factor() == (kernels == ExpertKernels::blocks));
      const Values<double> right = expected(c, in, layer.store);
      for (const int times : {1, 2}) {
        CAPTURE(times);
        const Values<T> got = layer.run(in, times);
        const auto summed = [&](std::vector<double> x) {
          for (double& y : x) y *= times;
          return x;
        };
        CHECK(worst_error(got.out, right.out, 1.0) < tolerance);
        CHECK(worst_error(got.d_rows, right.d_rows, 1.0) < tolerance);
        CHECK(worst_error(got.d_weight, right.d_weight, 1.0) < tolerance);
        CHECK(worst_error(got.w1, summed(right.w1), 1.0) < tolerance);
        CHECK(worst_error(got.b1, summed(right.b1), 1.0) < tolerance);
        CHECK(worst_error(got.w2, summed(right.w2), 1.0) < tolerance);
        CHECK(worst_error(got.b2, summed(right.b2), 1.0) < tolerance);
        if (!got.d_factor.empty())
          CHECK(worst_error(got.d_factor, summed(right.d_factor), 1.0) < tolerance);
      }
    }
}

TEST_CASE("a rounded hidden layer is what backward sees, and forward does not", "[experts]") {
  for (const ExpertKernels kernels : kernels_here())
    for (const Case& c : cases) {
      CAPTURE(to_string(kernels), c.d, c.h, c.offsets);
      const Inputs<double> in(c);
      Layer<double> layer(c, kernels);
      const Values<double> right = expected(c, in, layer.store, true);
      const Values<double> got = layer.run(in, 1, true);
      CHECK(worst_error(got.out, right.out, 1.0) < 1e-12);
      CHECK(worst_error(got.d_rows, right.d_rows, 1.0) < 1e-12);
      CHECK(worst_error(got.d_weight, right.d_weight, 1.0) < 1e-12);
      CHECK(worst_error(got.w1, right.w1, 1.0) < 1e-12);
      CHECK(worst_error(got.b1, right.b1, 1.0) < 1e-12);
      CHECK(worst_error(got.w2, right.w2, 1.0) < 1e-12);
      CHECK(worst_error(got.b2, right.b2, 1.0) < 1e-12);
      if (!got.d_factor.empty()) CHECK(worst_error(got.d_factor, right.d_factor, 1.0) < 1e-12);

      // In float a number may lie on the other side of a tie, so only the size of errors is sure.
      const Inputs<float> floats(c);
      Layer<float> single(c, kernels);
      const Values<float> whole = single.run(floats, 1);
      const std::size_t bytes = single.saved_bytes;
      const Values<float> rounded = single.run(floats, 1, true);
      CHECK(single.saved_bytes >= bytes / 2);
      CHECK(single.saved_bytes <= bytes / 2 + 64);  // an arena's unit
      CHECK(rounded.out == whole.out);
      if (c.rows() == 0) continue;
      CHECK(rounded.w2 != whole.w2);
      CHECK(distance(rounded.w1, whole.w1) < 1.0 / 256);
      CHECK(distance(rounded.w2, whole.w2) < 1.0 / 256);
      CHECK(distance(rounded.d_rows, whole.d_rows) < 1.0 / 256);
    }
}

TEMPLATE_TEST_CASE("products read rounded weights where there are some", "[experts]", float,
                   double) {
  using T = TestType;
  const double tolerance = 4000 * static_cast<double>(std::numeric_limits<T>::epsilon());
  const ExpertKernels kernels = kernels_here().back();
  if (kernels != ExpertKernels::blocks) return;
  for (const Case& c : cases) {
    CAPTURE(c.d, c.h, c.offsets);
    const Inputs<T> in(c);
    Layer<T> layer(c, kernels, true);
    const Values<T> got = layer.run(in, 1);
    // The definition, with the nearest numbers of eight bits as weights.
    ParameterStore<T>& store = layer.store;
    for (const char* name : {"e.w1", "e.w2"}) {
      const Matrix<T> weights = store.value(store.find(name));
      auto values = on_host(weights);
      for (T& x : values) x = static_cast<T>(nearest_bfloat16(static_cast<float>(x)));
      CHECK(values != on_host(weights));
      fill_device(weights, values);
    }
    const Values<double> right = expected(c, in, store);
    CHECK(worst_error(got.out, right.out, 1.0) < tolerance);
    CHECK(worst_error(got.d_rows, right.d_rows, 1.0) < tolerance);
    CHECK(worst_error(got.d_weight, right.d_weight, 1.0) < tolerance);
    CHECK(worst_error(got.w1, right.w1, 1.0) < tolerance);
    CHECK(worst_error(got.b1, right.b1, 1.0) < tolerance);
    CHECK(worst_error(got.w2, right.w2, 1.0) < tolerance);
    CHECK(worst_error(got.b2, right.b2, 1.0) < tolerance);
    if (!got.d_factor.empty()) CHECK(worst_error(got.d_factor, right.d_factor, 1.0) < tolerance);
  }
  // Not where a library multiplies, nor layout-free.
  const Case& c = cases.front();
  CHECK_THAT(
      message_of<Error>([&] { Layer<T>(c, ExpertKernels::gemm, true).run(Inputs<T>(c), 1); }),
      contains("weights in bfloat16 are read by blocks of rows alone"));
}

TEST_CASE("names of expert kernels", "[experts]") {
  CHECK(parse_expert_kernels("auto") == ExpertKernels::automatic);
  CHECK(parse_expert_kernels("gemm") == ExpertKernels::gemm);
  CHECK(message_of<InputError>([] { parse_expert_kernels("best"); }) ==
        "unknown expert kernels \"best\": choose auto, blocks or gemm");
}

// For tests/regression/expert_threads.sh, which compares what different numbers of threads write.
TEST_CASE("what blocks of rows compute, into a file", "[.][write-experts]") {
  const char* const path = std::getenv("KOKOMOE_WRITE_EXPERTS");
  REQUIRE(path != nullptr);
  std::ofstream file(path, std::ios::binary);
  for (const Case& c : cases) {
    const Values<float> v = Layer<float>(c, kernels_here().back()).run(Inputs<float>(c), 2);
    for (const auto* values :
         {&v.out, &v.d_rows, &v.d_weight, &v.w1, &v.b1, &v.w2, &v.b2, &v.d_factor})
      file.write(reinterpret_cast<const char*>(values->data()),
                 static_cast<std::streamsize>(values->size() * sizeof(float)));
  }
  REQUIRE(file.good());
}
