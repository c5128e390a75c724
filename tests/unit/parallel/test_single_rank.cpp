// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/error.hpp"
#include "kokomoe/parallel/agree.hpp"
#include "kokomoe/parallel/communicator.hpp"
#include "support/catch.hpp"

#include <vector>

using namespace kokomoe;

TEST_CASE("one rank without MPI leaves everything as it is", "[communicator]") {
  const Communicator alone;
  CHECK(alone.rank() == 0);
  CHECK(alone.size() == 1);
  CHECK(alone.is_root());
  CHECK(alone.implementation() == nullptr);
  std::vector<double> values = {1.5, -2};
  alone.all_reduce_sum(values.data(), values.size());
  CHECK(values == std::vector<double>{1.5, -2});
  const Vector<float> device("values", 3);
  Kokkos::deep_copy(device, 2.0f);
  alone.all_reduce_sum(ExecutionSpace(), device);
  CHECK(Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), device)(2) == 2.0f);
  CHECK(alone.all_reduce_max(-7) == -7);
  CHECK(alone.broadcast("text") == "text");
  alone.barrier();
}

TEST_CASE("work on one rank throws as it is", "[communicator]") {
  const Communicator alone;
  int runs = 0;
  run_on_root(alone, [&] { ++runs; });
  run_on_all(alone, [&] { ++runs; });
  CHECK(runs == 2);
  CHECK_THROWS_AS(run_on_root(alone, [] { throw InputError("x"); }), InputError);
  CHECK_THROWS_AS(run_on_all(alone, [] { throw Error("x"); }), Error);
}
