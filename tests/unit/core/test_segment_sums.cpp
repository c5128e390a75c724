// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/segment_sums.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/core/stable_sort.hpp"
#include "support/catch.hpp"
#include "support/host_arrays.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

/// Rows of sequences of these lengths, in an order of sequences.
struct Cut {
  std::vector<int> starts{0};
  std::vector<std::size_t> rows;  ///< row i here is row rows[i] of the whole

  Cut(const std::vector<int>& lengths, const std::vector<std::size_t>& order) {
    for (const std::size_t s : order) {
      const int before =
          std::accumulate(lengths.begin(), lengths.begin() + static_cast<std::ptrdiff_t>(s), 0);
      for (int t = 0; t < lengths[s]; ++t) rows.push_back(static_cast<std::size_t>(before + t));
      starts.push_back(static_cast<int>(rows.size()));
    }
  }
  Segments segments() const { return {device_vector(starts), static_cast<int>(starts.size()) - 1}; }
  template <class T>
  Matrix<T> take(const std::vector<T>& from, std::size_t columns) const {
    std::vector<T> values;
    for (const std::size_t r : rows)
      values.insert(values.end(), from.begin() + static_cast<std::ptrdiff_t>(r * columns),
                    from.begin() + static_cast<std::ptrdiff_t>((r + 1) * columns));
    return device_matrix(rows.size(), columns, values);
  }
};

exact_sum::Sums make_sums(std::size_t rows, std::size_t columns) {
  const exact_sum::Sums sums{Matrix<std::int64_t>("high", rows, columns),
                             Matrix<std::int64_t>("low", rows, columns),
                             Vector<std::int64_t>("outside", 1)};
  Kokkos::deep_copy(sums.high, 77);  // must be overwritten
  Kokkos::deep_copy(sums.low, -7);
  return sums;
}

/// Both limbs, one behind the other.
std::vector<std::int64_t> bits(const exact_sum::Sums& sums) {
  Kokkos::fence();
  std::vector<std::int64_t> result = on_host(sums.high);
  const std::vector<std::int64_t> low = on_host(sums.low);
  result.insert(result.end(), low.begin(), low.end());
  return result;
}

std::vector<double> values(const exact_sum::Sums& sums) {
  const std::vector<std::int64_t> all = bits(sums);
  std::vector<double> result(all.size() / 2);
  for (std::size_t i = 0; i < result.size(); ++i)
    result[i] = exact_sum::value(all[i], all[result.size() + i]);
  return result;
}

const std::vector<int> lengths{40, 0, 7, 129, 1, 64, 33};
const std::vector<std::size_t> in_order{0, 1, 2, 3, 4, 5, 6}, shuffled{5, 2, 6, 0, 4, 1, 3};
const std::size_t all_rows = 274;

}  // namespace

TEMPLATE_TEST_CASE("exact products are the products, in any order of sequences", "[segments]",
                   float, double) {
  using T = TestType;
  struct Widths {
    std::size_t m, n;
  };
  for (const Widths w : {Widths{1, 1}, Widths{5, 40}, Widths{64, 33}, Widths{9, 128}}) {
    Draw draw(w.m);
    const auto a = draw.many<T>(all_rows * w.m), b = draw.many<T>(all_rows * w.n);
    Arena scratch("kokomoe::test::scratch");
    const auto product = [&](const std::vector<std::size_t>& order, bool accumulate,
                             const exact_sum::Sums& out) {
      const Cut cut(lengths, order);
      exact_product<T>(ExecutionSpace(), scratch, cut.take(a, w.m), cut.take(b, w.n),
                       cut.segments(), 0, accumulate, out);
    };
    const exact_sum::Sums whole = make_sums(w.m, w.n), other = make_sums(w.m, w.n),
                          parts = make_sums(w.m, w.n);
    product(in_order, false, whole);
    product(shuffled, false, other);
    product({6, 0}, false, parts);  // as two ranks would
    product({1, 2, 5}, true, parts);
    product({4, 3}, true, parts);
    std::vector<double> expected(w.m * w.n, 0.0);
    for (std::size_t t = 0; t < all_rows; ++t)
      for (std::size_t i = 0; i < w.m; ++i)
        for (std::size_t j = 0; j < w.n; ++j)
          expected[i * w.n + j] +=
              static_cast<double>(a[t * w.m + i]) * static_cast<double>(b[t * w.n + j]);
    CAPTURE(w.m, w.n);
    CHECK(worst_error(values(whole), expected, 1.0) < (sizeof(T) == 4 ? 1e-5 : 1e-14));
    CHECK(bits(other) == bits(whole));
    CHECK(bits(parts) == bits(whole));
    CHECK(on_host(whole.outside)[0] == 0);
  }
}

TEST_CASE("rows of a product may be some of those that the segments cut", "[segments]") {
  Draw draw(9);
  const std::size_t m = 6, n = 10;
  const auto a = draw.many<float>(all_rows * m), b = draw.many<float>(all_rows * n);
  Arena scratch("kokomoe::test::scratch");
  const exact_sum::Sums some = make_sums(m, n), expected = make_sums(m, n);
  const Cut whole(lengths, in_order), part(lengths, {2, 3, 4});
  // The first two sequences have 40 rows; two segments more than there are begin at the end.
  std::vector<int> starts = whole.starts;
  starts.insert(starts.end(), {274, 274});
  exact_product<float>(ExecutionSpace(), scratch, part.take(a, m), part.take(b, n),
                       {device_vector(starts), 9}, 40, false, some);
  exact_product<float>(ExecutionSpace(), scratch, part.take(a, m), part.take(b, n), part.segments(),
                       0, false, expected);
  CHECK(bits(some) == bits(expected));
}

TEMPLATE_TEST_CASE("exact column sums, weighted, multiplied and in groups", "[segments]", float,
                   double) {
  using T = TestType;
  const std::size_t columns = 37;
  Draw draw(5);
  const auto a = draw.many<T>(all_rows * columns), b = draw.many<T>(all_rows * columns),
             weight = draw.many<T>(all_rows);
  Arena scratch("kokomoe::test::scratch");
  for (int form = 0; form < 4; ++form) {
    const bool product = (form & 1) != 0, weighted = (form & 2) != 0;
    const auto sum = [&](const std::vector<std::size_t>& order, const std::vector<int>& groups,
                         bool accumulate, const exact_sum::Sums& out) {
      const Cut cut(lengths, order);
      const Matrix<T> w = cut.take(weight, 1);
      exact_column_sum<T>(ExecutionSpace(), scratch, cut.take(a, columns),
                          product ? cut.take(b, columns) : Matrix<T>(),
                          weighted ? Vector<T>(w.data(), w.extent(0)) : Vector<T>(), cut.segments(),
                          groups, accumulate, out);
    };
    const int all = static_cast<int>(all_rows);
    const exact_sum::Sums whole = make_sums(1, columns), other = make_sums(1, columns),
                          parts = make_sums(1, columns), groups = make_sums(3, columns);
    sum(in_order, {0, all}, false, whole);
    sum(shuffled, {0, all}, false, other);
    sum({3, 4, 1}, {0, 130}, false, parts);
    sum({0, 5, 2, 6}, {0, 144}, true, parts);
    sum(in_order, {0, 47, 47, all}, false, groups);
    std::vector<double> expected(columns, 0.0);
    for (std::size_t t = 0; t < all_rows; ++t)
      for (std::size_t c = 0; c < columns; ++c)
        expected[c] += (weighted ? static_cast<double>(weight[t]) : 1.0) *
                       static_cast<double>(a[t * columns + c]) *
                       (product ? static_cast<double>(b[t * columns + c]) : 1.0);
    CAPTURE(form);
    CHECK(worst_error(values(whole), expected, 1.0) < (sizeof(T) == 4 ? 1e-5 : 1e-14));
    CHECK(bits(other) == bits(whole));
    CHECK(bits(parts) == bits(whole));
    const std::vector<double> grouped = values(groups);
    for (std::size_t c = 0; c < columns; ++c) {
      CHECK(grouped[columns + c] == 0);
      CHECK(std::abs(grouped[c] + grouped[2 * columns + c] - expected[c]) < 1e-4);
    }
  }
}

TEST_CASE("exact scatter sums rows by key, in any order of sequences", "[segments]") {
  const std::size_t columns = 70;
  const int keys = 11;
  Draw draw(6);
  const auto a = draw.many<float>(all_rows * columns);
  std::vector<int> key(all_rows);
  for (int& k : key) k = static_cast<int>(0.5 * (draw() + 1) * (keys - 1));  // the last is unused
  Arena scratch("kokomoe::test::scratch");
  const auto scatter = [&](const std::vector<std::size_t>& order, bool accumulate,
                           const exact_sum::Sums& out) {
    const Cut cut(lengths, order);
    std::vector<int> own_key;
    std::vector<std::uint32_t> sequence;
    for (const std::size_t r : cut.rows) own_key.push_back(key[r]);
    for (std::size_t s = 0; s + 1 < cut.starts.size(); ++s)
      sequence.resize(static_cast<std::size_t>(cut.starts[s + 1]),
                      static_cast<std::uint32_t>(order[s]));
    const Vector<int> offsets("offsets", keys + 1), sorted("sorted", own_key.size());
    stable_sort(ExecutionSpace(), scratch, device_vector(own_key), keys, offsets, sorted);
    exact_scatter_sum<float>(ExecutionSpace(), cut.take(a, columns), offsets, sorted,
                             device_vector(sequence), accumulate, out);
  };
  const exact_sum::Sums whole = make_sums(keys, columns), other = make_sums(keys, columns),
                        parts = make_sums(keys, columns);
  scatter(in_order, false, whole);
  scatter(shuffled, false, other);
  scatter({4, 6, 3}, false, parts);
  scatter({0, 1, 2, 5}, true, parts);
  std::vector<double> expected(keys * columns, 0.0);
  for (std::size_t t = 0; t < all_rows; ++t)
    for (std::size_t c = 0; c < columns; ++c)
      expected[static_cast<std::size_t>(key[t]) * columns + c] +=
          static_cast<double>(a[t * columns + c]);
  CHECK(worst_error(values(whole), expected, 1.0) < 1e-5);
  CHECK(bits(other) == bits(whole));
  CHECK(bits(parts) == bits(whole));
}

TEST_CASE("parts that do not fit are counted, not wrapped", "[segments]") {
  const float infinity = std::numeric_limits<float>::infinity();
  Arena scratch("kokomoe::test::scratch");
  for (const float bad : {1e6f, -1e30f, infinity, std::numeric_limits<float>::quiet_NaN()})
    for (const bool good : {false, true}) {
      const Cut cut({3, 2}, {0, 1});
      std::vector<float> a(5 * 4, 1.0f);
      if (!good) a[3 * 4 + 2] = bad;
      const exact_sum::Sums product = make_sums(4, 4), column = make_sums(1, 4);
      const int offsets[] = {0, 5};
      exact_product<float>(ExecutionSpace(), scratch, cut.take(a, 4),
                           cut.take(std::vector<float>(20, 1.0f), 4), cut.segments(), 0, false,
                           product);
      exact_column_sum<float>(ExecutionSpace(), scratch, cut.take(a, 4), Matrix<float>(),
                              Vector<float>(), cut.segments(), offsets, false, column);
      CAPTURE(bad, good);
      CHECK((on_host(product.outside)[0] == 0) == good);
      CHECK((on_host(column.outside)[0] == 0) == good);
    }
}

TEST_CASE("sums on a grid have the same bits however sequences are parted", "[segments]") {
  const std::size_t columns = 3;
  Draw draw(8);
  const auto a = draw.many<float>(all_rows * columns);
  Arena scratch("kokomoe::test::scratch");
  const exact_sum::Grid grid(1, all_rows);
  const auto sum = [&](const std::vector<std::size_t>& order) {
    const Cut cut(lengths, order);
    const Vector<double> out("out", columns);
    grid_column_sum<float>(ExecutionSpace(), scratch, cut.take(a, columns), cut.segments(), grid,
                           out);
    Kokkos::fence();
    return on_host(out);
  };
  const std::vector<double> whole = sum(in_order), one = sum({6, 1, 0}), two = sum({2, 3, 4, 5});
  std::vector<double> expected(columns, 0.0);
  for (std::size_t i = 0; i < a.size(); ++i) expected[i % columns] += static_cast<double>(a[i]);
  CHECK(worst_error(whole, expected, 1.0) < 1e-9);
  CHECK(sum(shuffled) == whole);
  for (std::size_t c = 0; c < columns; ++c) CHECK(one[c] + two[c] == whole[c]);
}
