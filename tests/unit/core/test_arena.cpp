// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/arena.hpp"
#include "support/catch.hpp"

#include <cstdint>

using namespace kokomoe;

TEST_CASE("an arena hands out aligned memory that does not overlap", "[arena]") {
  Arena arena("kokomoe::test::arena", 4096);
  const auto a = arena.vector<float>(3);
  const auto b = arena.matrix<double>(2, 5);
  const auto c = arena.vector<char>(1);
  for (const void* p : {static_cast<const void*>(a.data()), static_cast<const void*>(b.data()),
                        static_cast<const void*>(c.data())})
    CHECK(reinterpret_cast<std::uintptr_t>(p) % 64 == 0);
  CHECK(b.extent(0) == 2);
  CHECK(b.extent(1) == 5);
  CHECK(reinterpret_cast<char*>(b.data()) >= reinterpret_cast<char*>(a.data()) + 12);
  CHECK(reinterpret_cast<char*>(c.data()) >= reinterpret_cast<char*>(b.data()) + 80);
  CHECK(arena.growths() == 1);
  CHECK(arena.capacity() == 4096);
  CHECK(arena.high_water() == 64 + 128 + 64);
}

TEST_CASE("a released mark gives the same memory again", "[arena]") {
  Arena arena("kokomoe::test::arena", 4096);
  arena.vector<float>(10);
  const auto mark = arena.mark();
  float* const first = arena.vector<float>(100).data();
  arena.release(mark);
  CHECK(arena.vector<float>(7).data() == first);
  arena.release(mark);
  {
    ArenaScope scope(arena);
    CHECK(arena.vector<float>(50).data() == first);
    ArenaScope inner(arena);
    CHECK(arena.vector<float>(50).data() != first);
  }
  CHECK(arena.vector<float>(50).data() == first);
}

TEST_CASE("a full arena grows, and reset merges it into one block that suffices", "[arena]") {
  Arena arena("kokomoe::test::arena");
  CHECK(arena.capacity() == 0);
  CHECK(arena.growths() == 0);
  const auto step = [&] {
    // The old views must survive growth.
    const auto first = arena.vector<double>(100);
    Kokkos::deep_copy(first, 3.0);
    for (int i = 0; i < 5; ++i) arena.vector<char>(700001);
    CHECK(Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), first)(99) == 3.0);
  };
  step();
  CHECK(arena.growths() > 1);
  const std::size_t high = arena.high_water();
  CHECK(high >= 800 + 5 * 700001);
  arena.reset();
  CHECK(arena.capacity() == high);
  const int growths = arena.growths();
  for (int repeat = 0; repeat < 3; ++repeat) {
    step();
    arena.reset();
  }
  CHECK(arena.growths() == growths);
  CHECK(arena.high_water() == high);
}

TEST_CASE("marks reach back over blocks", "[arena]") {
  Arena arena("kokomoe::test::arena", 1024);
  char* const before = arena.vector<char>(64).data();
  const auto mark = arena.mark();
  arena.vector<char>(1 << 21);
  CHECK(arena.growths() == 2);
  arena.release(mark);
  CHECK(arena.vector<char>(64).data() == before + 64);
  arena.vector<char>(1 << 21);
  CHECK(arena.growths() == 2);
}

TEST_CASE("an arena gives empty views", "[arena]") {
  Arena arena("kokomoe::test::arena");
  CHECK(arena.matrix<float>(0, 7).extent(1) == 7);
  CHECK(arena.vector<float>(0).size() == 0);
  CHECK(arena.high_water() == 0);
}
