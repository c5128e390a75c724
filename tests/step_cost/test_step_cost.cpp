// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "malloc_counter.hpp"
#include "recorder.hpp"
#include "support/catch.hpp"
#include "support/tiny_training.hpp"

#include <iostream>
#include <map>

using namespace kokomoe;
using namespace kokomoe::test;

TEST_CASE("probe") {
  const TinyTraining tiny;
  {
    Recorder r;
    const auto model = tiny.make<float>({"train/accumulate=2", "model/dropout=0.1"});
    for (int s = 0; s < 3; ++s) model->update(s);
    const auto print = [](const char* what, const std::multiset<std::string>& names) {
      std::cout << "== " << what << "\n";
      for (auto i = names.begin(); i != names.end(); i = names.upper_bound(*i))
        std::cout << names.count(*i) << " " << *i << "\n";
    };
    print("alloc", r.allocations);
    r.clear();
    model->update(3);
    print("kernels", r.kernels);
    print("alloc", r.allocations);
    print("regions", r.regions);
    print("fences", r.fences);
    std::cout << "== copies\n";
    for (const auto& c : r.copies)
      std::cout << "[" << c.to << "] <- [" << c.from << "] " << c.bytes << " " << c.same_memory << "\n";
  }
  const auto model = tiny.make<float>({"train/accumulate=2", "model/dropout=0.1"});
  for (int s = 0; s < 3; ++s) model->update(s);
  start_malloc_counts();
  for (int s = 3; s < 4; ++s) model->update(s);
  const MallocCounts n = stop_malloc_counts();
  std::cout << "malloc small " << n.small << " large " << n.large << "\n";
}
