// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "support/communicator.hpp"

#include "kokomoe/config.hpp"
#include "kokomoe/core/error.hpp"
#include "kokomoe/parallel/agree.hpp"
#include "support/catch.hpp"

#ifdef KOKOMOE_HAVE_MPI
#include "kokomoe/parallel/mpi.hpp"
#endif

#include <cstring>
#include <numeric>
#include <vector>

using namespace kokomoe;
using kokomoe::test::communicator;
using kokomoe::test::message_of;

TEMPLATE_TEST_CASE("sums over ranks, host and device", "[communicator]", float, double,
                   std::int32_t, std::int64_t) {
  const Communicator& ranks = communicator();
  const int n = ranks.size();
  const TestType sum = static_cast<TestType>(n * (n + 1) / 2);
  for (const std::size_t size : {std::size_t(0), std::size_t(1), std::size_t(100003)}) {
    std::vector<TestType> host(size, static_cast<TestType>(ranks.rank() + 1));
    ranks.all_reduce_sum(host.data(), size);
    CHECK(host == std::vector<TestType>(size, sum));

    const Vector<TestType> device("device", size);
    const ExecutionSpace space;
    Kokkos::deep_copy(space, device, static_cast<TestType>(ranks.rank() + 1));
    ranks.all_reduce_sum(space, device);
    std::size_t wrong = 0;
    Kokkos::parallel_reduce(
        "check", Kokkos::RangePolicy<ExecutionSpace>(space, 0, size),
        KOKKOS_LAMBDA(std::size_t i, std::size_t & count) { count += device(i) != sum; }, wrong);
    CHECK(wrong == 0);
  }
}

TEST_CASE("every rank gets bitwise the same sum", "[communicator]") {
  const Communicator& ranks = communicator();
  std::vector<double> values(1001);
  for (std::size_t i = 0; i < values.size(); ++i)
    values[i] = 1.0 / (1.0 + static_cast<double>(i) + 0.1 * ranks.rank());
  ranks.all_reduce_sum(values.data(), values.size());
  std::vector<double> root = values;
  ranks.broadcast(root.data(), root.size() * sizeof(double));
  CHECK(std::memcmp(root.data(), values.data(), root.size() * sizeof(double)) == 0);
}

TEST_CASE("largest value, broadcast, barrier", "[communicator]") {
  const Communicator& ranks = communicator();
  CHECK(ranks.all_reduce_max(ranks.rank() - 10) == ranks.size() - 11);
  const std::string long_text(100000, 'x');
  CHECK(ranks.broadcast(ranks.is_root() ? long_text : "other") == long_text);
  CHECK(ranks.broadcast(ranks.is_root() ? "" : "other").empty());
  int value = ranks.is_root() ? 42 : 0;
  ranks.broadcast(&value, sizeof value);
  CHECK(value == 42);
  ranks.barrier();
  const Communicator copy = ranks;
  CHECK(copy.size() == ranks.size());
}

TEST_CASE("the root's error reaches every rank with its type", "[communicator]") {
  const Communicator& ranks = communicator();
  int runs = 0;
  run_on_root(ranks, [&] { ++runs; });
  CHECK(runs == (ranks.is_root() ? 1 : 0));
  CHECK(message_of<InputError>([&] { run_on_root(ranks, [] { throw InputError("bad deck"); }); }) ==
        "bad deck");
  try {
    run_on_root(ranks, [] { throw Error("disk full"); });
    FAIL("nothing was thrown");
  } catch (const InputError&) {
    FAIL("the type changed");
  } catch (const Error& error) {
    CHECK(std::string(error.what()) == "disk full");
  }
}

TEST_CASE("one rank's error stops all", "[communicator]") {
  const Communicator& ranks = communicator();
  const int last = ranks.size() - 1;
  const std::string message = message_of<Error>([&] {
    run_on_all(ranks, [&] {
      if (ranks.rank() == last) throw InputError("my disk");
    });
  });
  CHECK(message ==
        (ranks.rank() == last ? "my disk" : "rank " + std::to_string(last) + ": my disk"));
  // The type travels with the words, those of the first rank that failed.
  const std::string several = message_of<InputError>([&] {
    run_on_all(ranks, [&] {
      if (ranks.rank() > 0 || ranks.size() == 1)
        throw InputError("disk of " + std::to_string(ranks.rank()));
    });
  });
  CHECK(several == (ranks.rank() > 0 || ranks.size() == 1
                        ? "disk of " + std::to_string(ranks.rank())
                        : "rank 1: disk of 1"));
  run_on_all(ranks, [] {});
}

#ifdef KOKOMOE_HAVE_MPI
TEST_CASE("a communicator is a duplicate, and MPI's errors become exceptions", "[communicator]") {
  const Communicator& ranks = communicator();
  if (ranks.implementation() == nullptr) return;
  int result = MPI_UNEQUAL;
  MPI_Comm_compare(mpi_comm(ranks), MPI_COMM_WORLD, &result);
  CHECK(result == MPI_CONGRUENT);
  const Communicator self = make_communicator(MPI_COMM_SELF);
  CHECK(self.size() == 1);
  CHECK(self.all_reduce_max(ranks.rank()) == ranks.rank());
  CHECK(mpi_comm(Communicator()) == MPI_COMM_NULL);
}
#endif
