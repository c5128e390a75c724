// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/error.hpp"
#include "kokomoe/moe/combine.hpp"
#include "support/catch.hpp"
#include "support/host_arrays.hpp"

#include <algorithm>
#include <limits>

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

/// Assignments in coordinate form; expert = `experts` where a slot is unused.
struct Assignments {
  int tokens, experts, slots_per_token;
  std::vector<int> token, expert;
};

int pick(Draw& draw, int count) {
  return std::min(count - 1, static_cast<int>(0.5 * (draw() + 1) * count));
}

/// k distinct slots a token; some of them unused.
Assignments token_choice(int tokens, int experts, int k, double unused, std::uint64_t seed) {
  Assignments a{tokens, experts, k, {}, {}};
  Draw draw(seed);
  for (int t = 0; t < tokens; ++t)
    for (int r = 0; r < k; ++r) {
      a.token.push_back(t);
      a.expert.push_back(0.5 * (draw() + 1) < unused ? experts : pick(draw, experts));
    }
  return a;
}

/// Each expert takes `capacity` tokens in any order: a token has 0..E experts.
Assignments expert_choice(int tokens, int experts, int capacity, double unused,
                          std::uint64_t seed) {
  Assignments a{tokens, experts, 0, {}, {}};
  Draw draw(seed);
  for (int e = 0; e < experts; ++e)
    for (int c = 0; c < capacity; ++c) {
      // Half of the tokens get all assignments, so that others have none.
      a.token.push_back(pick(draw, (tokens + 1) / 2));
      a.expert.push_back(0.5 * (draw() + 1) < unused ? experts : e);
    }
  return a;
}

struct Planned {
  DispatchPlan plan;
  Arena saved{"kokomoe::test::saved"}, scratch{"kokomoe::test::scratch"};
};

void build(const Assignments& a, Planned& planned) {
  build_dispatch_plan(ExecutionSpace(), planned.saved, planned.scratch, a.tokens, a.experts,
                      a.slots_per_token, device_vector(a.token), device_vector(a.expert),
                      planned.plan);
}

void check_plan(const Assignments& a) {
  CAPTURE(a.tokens, a.experts, a.slots_per_token, a.token.size());
  Planned planned;
  build(a, planned);
  const DispatchPlan& plan = planned.plan;
  std::vector<int> slots, counts(static_cast<std::size_t>(a.experts), 0), offsets{0};
  for (std::size_t n = 0; n < a.expert.size(); ++n)
    if (a.expert[n] < a.experts) {
      slots.push_back(static_cast<int>(n));
      ++counts[static_cast<std::size_t>(a.expert[n])];
    }
  for (const int c : counts) offsets.push_back(offsets.back() + c);
  std::stable_sort(slots.begin(), slots.end(), [&](int m, int n) {
    return a.expert[static_cast<std::size_t>(m)] < a.expert[static_cast<std::size_t>(n)];
  });
  REQUIRE(plan.rows() == static_cast<int>(slots.size()));
  CHECK(on_host(plan.counts) == counts);
  CHECK(on_host(plan.offsets) == offsets);
  const auto host_offsets = plan.offsets_on_host();
  CHECK(std::vector<int>(host_offsets.begin(), host_offsets.end()) == offsets);
  const auto slot_of_row = on_host(plan.slot_of_row), row_of_slot = on_host(plan.row_of_slot),
             token_of_row = on_host(plan.token_of_row), expert_of_row = on_host(plan.expert_of_row);
  std::vector<int> rows(a.token.size(), -1);
  std::size_t wrong = 0;
  for (std::size_t r = 0; r < slots.size(); ++r) {
    const auto slot = static_cast<std::size_t>(slots[r]);
    rows[slot] = static_cast<int>(r);
    wrong += slot_of_row[r] != slots[r] || token_of_row[r] != a.token[slot] ||
             expert_of_row[r] != a.expert[slot];
  }
  CHECK(wrong == 0);
  CHECK(row_of_slot == rows);
  if (a.slots_per_token > 0) return;
  // Per token, its used slots in slot order.
  std::vector<int> token_offsets{0}, token_slots;
  for (int t = 0; t < a.tokens; ++t) {
    for (std::size_t n = 0; n < a.token.size(); ++n)
      if (a.token[n] == t && rows[n] >= 0) token_slots.push_back(static_cast<int>(n));
    token_offsets.push_back(static_cast<int>(token_slots.size()));
  }
  CHECK(on_host(plan.token_offsets) == token_offsets);
  auto listed = on_host(plan.token_slots);
  listed.resize(token_slots.size());
  CHECK(listed == token_slots);
}

std::vector<Assignments> cases() {
  return {token_choice(1, 1, 1, 0, 1),
          token_choice(100, 4, 1, 0, 2),
          token_choice(1000, 7, 2, 0.3, 3),
          token_choice(50, 64, 3, 0, 4),
          token_choice(300, 4, 2, 1.0, 5),
          token_choice(0, 4, 2, 0, 6),
          expert_choice(40, 5, 9, 0.3, 7),
          expert_choice(700, 3, 300, 0, 8),
          expert_choice(10, 4, 6, 1.0, 9),
          expert_choice(3, 1, 2, 0, 10),
          {0, 3, 0, {}, {}},
          {5, 3, 0, {}, {}},
          {4, 3, 1, {0, 1, 2, 3}, {2, 2, 2, 2}}};
}

}  // namespace

TEST_CASE("a plan sorts assignments by expert, stably, and finds them again", "[dispatch]") {
  for (const Assignments& a : cases()) check_plan(a);
}

TEST_CASE("a plan is rebuilt for other sizes", "[dispatch]") {
  Planned planned;
  build(token_choice(100, 4, 1, 0, 2), planned);
  build(token_choice(10, 9, 2, 0, 3), planned);
  CHECK(planned.plan.rows() == 20);
  CHECK(planned.plan.offsets_on_host().size() == 10);
  CHECK(DispatchPlan().rows() == 0);
}

TEMPLATE_TEST_CASE("gather and combine are the naive sums, in slot order", "[dispatch]", float,
                   double) {
  using T = TestType;
  constexpr std::size_t d = 7;
  for (const Assignments& a : cases())
    for (const bool weighted : {true, false}) {
      CAPTURE(a.tokens, a.experts, a.slots_per_token, weighted);
      Planned planned;
      build(a, planned);
      const DispatchPlan& plan = planned.plan;
      const auto tokens = static_cast<std::size_t>(a.tokens);
      const auto rows = static_cast<std::size_t>(plan.rows());
      const auto x = Draw(1).many<T>(tokens * d), w = Draw(2).many<T>(a.token.size());
      const Matrix<T> gathered("gathered", rows, d), y("y", tokens, d);
      gather_rows<T>(ExecutionSpace(), plan, device_matrix(tokens, d, x), gathered);
      const auto row_of_slot = on_host(plan.row_of_slot);
      auto got = on_host(gathered);
      std::size_t wrong = 0;
      for (std::size_t n = 0; n < row_of_slot.size(); ++n)
        for (std::size_t j = 0; row_of_slot[n] >= 0 && j < d; ++j)
          wrong += got[static_cast<std::size_t>(row_of_slot[n]) * d + j] !=
                   x[static_cast<std::size_t>(a.token[n]) * d + j];
      CHECK(wrong == 0);

      const auto out = Draw(3).many<T>(rows * d);
      Kokkos::deep_copy(y, std::numeric_limits<T>::quiet_NaN());
      combine_rows<T>(ExecutionSpace(), plan, device_matrix(rows, d, out),
                      weighted ? device_vector(w) : Vector<T>(), y);
      std::vector<T> expected(tokens * d, 0);
      for (std::size_t n = 0; n < row_of_slot.size(); ++n)
        for (std::size_t j = 0; row_of_slot[n] >= 0 && j < d; ++j)
          expected[static_cast<std::size_t>(a.token[n]) * d + j] +=
              (weighted ? w[n] : T(1)) * out[static_cast<std::size_t>(row_of_slot[n]) * d + j];
      CHECK(on_host(y) == expected);  // to the bit: the order is fixed
    }
}

TEST_CASE("values move between slots and rows", "[dispatch]") {
  const Assignments a = expert_choice(40, 5, 9, 0.3, 7);
  Planned planned;
  build(a, planned);
  const auto rows = static_cast<std::size_t>(planned.plan.rows()), slots = a.token.size();
  const auto by_slot = Draw(4).many<double>(slots);
  const Vector<double> by_row("by_row", rows), back("back", slots);
  Kokkos::deep_copy(back, -1.0);
  slots_to_rows<double>(ExecutionSpace(), planned.plan, device_vector(by_slot), by_row);
  rows_to_slots<double>(ExecutionSpace(), planned.plan, by_row, back);
  const auto slot_of_row = on_host(planned.plan.slot_of_row);
  const auto got_rows = on_host(by_row), got_slots = on_host(back);
  for (std::size_t r = 0; r < rows; ++r)
    CHECK(got_rows[r] == by_slot[static_cast<std::size_t>(slot_of_row[r])]);
  for (std::size_t n = 0; n < slots; ++n)
    CHECK(got_slots[n] == (a.expert[n] < a.experts ? by_slot[n] : 0.0));
}

TEST_CASE("dispatch refuses shapes that do not fit", "[dispatch]") {
  Planned planned;
  CHECK_THAT(message_of<Error>([&] {
               build({4, 2, 1, {0, 1, 2, 3}, {0, 1}}, planned);
             }),
             contains("(2, 1)") && contains("(4, 1)"));
  build({4, 2, 1, {0, 1, 2, 3}, {0, 1, 1, 2}}, planned);
  const Matrix<float> x("x", 4, 5), four("four", 4, 5), three("three", 3, 5);
  CHECK_THAT(
      message_of<Error>([&] { gather_rows<float>(ExecutionSpace(), planned.plan, x, four); }),
      contains("(4, 5), expected (3, 5)"));
  CHECK_THROWS_AS(
      combine_rows<float>(ExecutionSpace(), planned.plan, three, Vector<float>(), three), Error);
  CHECK_THROWS_AS(combine_rows<float>(ExecutionSpace(), planned.plan, four, Vector<float>(), four),
                  Error);
}
