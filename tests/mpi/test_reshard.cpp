// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause

// Checkpoints of sharded experts: saved on any layout, loaded on any other.
#include "kokomoe/config.hpp"
#include "shared_folder.hpp"

#ifdef KOKOMOE_HAVE_HDF5

#include "kokomoe/core/error.hpp"
#include "kokomoe/io/checkpoint.hpp"
#include "sharded_store.hpp"
#include "support/catch.hpp"

#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <stdexcept>
#include <thread>

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

/// R ranks, P of them to an expert group.
struct Layout {
  int ranks = 1, expert_ranks = 1;
  std::string name() const { return std::to_string(ranks) + "x" + std::to_string(expert_ranks); }
};

/// All layouts that fit into the ranks there are.
std::vector<Layout> all_layouts() {
  std::vector<Layout> layouts;
  for (int ranks = 1; ranks <= communicator().size(); ++ranks)
    for (int expert_ranks = 1; expert_ranks <= ranks; ++expert_ranks)
      if (ranks % expert_ranks == 0) layouts.push_back({ranks, expert_ranks});
  return layouts;
}

/// Runs `work(group, store)` on the first ranks of the world; the others wait.
template <class T, class Work>
void on_layout(const Layout& layout, std::size_t experts, const Work& work) {
  const Communicator& world = communicator();
  const bool takes_part = world.rank() < layout.ranks;
  const Communicator group = world.split(takes_part ? 0 : 1, world.rank());
  if (takes_part) {
    const auto store =
        make_sharded<T>(group.rank() % layout.expert_ranks, layout.expert_ranks, experts);
    work(group, *store);
  }
  world.barrier();
}

CheckpointMeta meta_of(std::int64_t step) {
  CheckpointMeta meta;
  meta.step = step;
  meta.counters["tokens"] = 17;
  return meta;
}

int operations = 0;
int fail_at = -1;
void count_operation(const char*, const std::string& path) {
  if (operations++ == fail_at) throw std::runtime_error(path + ": planted failure");
}

/// Sets how saves work for a scope.
class Tuning {
 public:
  explicit Tuning(detail::CheckpointTuning tuning) {
    detail::checkpoint_tuning = tuning;
    operations = 0;
    fail_at = -1;
    detail::checkpoint_hook = count_operation;
  }
  ~Tuning() {
    detail::checkpoint_tuning = {};
    detail::checkpoint_hook = nullptr;
  }
  Tuning(const Tuning&) = delete;
  Tuning& operator=(const Tuning&) = delete;
};

}  // namespace

TEMPLATE_TEST_CASE("a checkpoint of any layout loads on any other", "[checkpoint]", float, double) {
  const SharedFolder folder;
  // Not divisible by ranks, divisible, and fewer experts than ranks.
  for (const std::size_t experts : {std::size_t(5), std::size_t(4), std::size_t(2)}) {
    for (const Layout& from : all_layouts()) {
      const std::string name = folder / (std::to_string(experts) + "_" + from.name());
      // Pieces of a few elements, so that every tensor is cut, and some rows are.
      const Tuning tuning({24, false});
      on_layout<TestType>(from, experts, [&](const Communicator& group, auto& store) {
        fill_known(store, 1);
        save_checkpoint(name, store, meta_of(3), group, false, 2);
      });
      for (const Layout& to : all_layouts()) {
        on_layout<TestType>(to, experts, [&](const Communicator& group, auto& store) {
          INFO(experts << " experts from " << from.name() << " to " << to.name());
          fill_known(store, 2);
          const CheckpointMeta meta = load_checkpoint(name + "/step_3", store, group);
          CHECK(meta.step == 3);
          CHECK(meta.counters.at("tokens") == 17);
          CHECK(count_wrong(store, 1) == 0);
          CHECK(count_wrong(store, 2) > 0);
        });
      }
    }
  }
}

TEST_CASE("the files do not depend on who writes them", "[checkpoint]") {
  const SharedFolder folder;
  for (const std::size_t experts : {std::size_t(5), std::size_t(2)}) {
    std::string state, manifest;
    for (const Layout& layout : all_layouts()) {
      for (const bool gather : {false, true}) {
        for (const std::size_t bytes : {std::size_t(40), std::size_t(1) << 20}) {
          INFO(layout.name() << (gather ? " gathered" : " together") << ", pieces of " << bytes);
          const std::string name = folder / (std::to_string(experts) + layout.name() +
                                             (gather ? "g" : "t") + std::to_string(bytes));
          const Tuning tuning({bytes, gather});
          on_layout<float>(layout, experts, [&](const Communicator& group, auto& store) {
            fill_known(store, 1);
            save_checkpoint(name, store, meta_of(3), group, true, 2);
            // The ranks that hold experts write when they may, and only then.
            const bool writes = group.is_root() || (!gather && layout.expert_ranks > 1 &&
                                                    group.rank() < layout.expert_ranks);
            CHECK((operations > 0) == writes);
          });
          if (!communicator().is_root()) continue;
          if (state.empty()) {
            std::this_thread::sleep_for(std::chrono::milliseconds(1100));  // times count seconds
            state = read_text(name + "/step_3/state.h5");
            manifest = read_text(name + "/step_3/manifest.json");
            REQUIRE_FALSE(state.empty());
          }
          CHECK(read_text(name + "/step_3/state.h5") == state);
          CHECK(read_text(name + "/step_3/manifest.json") == manifest);
        }
      }
    }
  }
}

TEST_CASE("a folder that only the root sees will do", "[checkpoint]") {
  const Communicator& world = communicator();
  const TemporaryFolder own;
  const std::filesystem::path before = std::filesystem::current_path();
  std::filesystem::current_path(own.path());
  for (const Layout& layout : all_layouts()) {
    on_layout<float>(layout, 5, [&](const Communicator& group, auto& store) {
      fill_known(store, 1);
      save_checkpoint("c", store, meta_of(3), group, false, 2);
      fill_known(store, 2);
      load_checkpoint("c/step_3", store, group);
      CHECK(count_wrong(store, 1) == 0);
    });
    CHECK(std::filesystem::exists("c/step_3/state.h5") == world.is_root());
    if (world.is_root()) std::filesystem::remove_all("c");
  }
  std::filesystem::current_path(before);
}

TEST_CASE("a failure on any rank ends the save on all of them", "[checkpoint]") {
  const SharedFolder folder;
  const Communicator& world = communicator();
  for (const bool gather : {false, true}) {
    for (const Layout& layout : all_layouts()) {
      const std::string name = folder / ("f" + layout.name() + (gather ? "g" : "t"));
      const Tuning tuning({24, gather});
      on_layout<float>(layout, 3, [&](const Communicator& group, auto& store) {
        fill_known(store, 1);
        save_checkpoint(name, store, meta_of(1), group, false, 2);
        const int last = group.size() - 1;
        // On the last rank, then on the root; at the first operations, up to those before the first
        // that is collective, in the middle, near the end.
        for (const int failing : {last, 0}) {
          operations = 0;
          fill_known(store, 1);
          save_checkpoint(name, store, meta_of(1), group, false, 2);
          const int count = group.rank() == failing ? operations : 0;
          for (const int at : {0, 1, 2, 3, 4, -5, -8}) {
            operations = 0;
            fail_at = group.rank() == failing ? (at < 0 ? count * -at / 10 : at) : -1;
            const bool fails = group.all_reduce_max(count) > 0;
            fill_known(store, 2);
            if (!fails) {  // a rank that writes nothing
              CHECK((failing > 0 && (gather || failing >= layout.expert_ranks)));
              break;
            }
            INFO(layout.name() << ", rank " << failing << " at " << at << " of " << count);
            CHECK_THAT(message_of<Error>(
                           [&] { save_checkpoint(name, store, meta_of(2), group, false, 2); }),
                       contains("planted failure"));
            fail_at = -1;
            if (group.is_root()) CHECK_FALSE(std::filesystem::exists(name + "/step_2.tmp"));
            load_checkpoint(name + "/step_1", store, group);
            CHECK(count_wrong(store, 1) == 0);
          }
        }
      });
    }
  }
  world.barrier();
}

TEST_CASE("damage is everyone's error, and no rank's store is touched", "[checkpoint]") {
  const SharedFolder folder;
  for (const Layout& layout : all_layouts()) {
    const std::string name = folder / layout.name();
    on_layout<float>(layout, 3, [&](const Communicator& group, auto& store) {
      fill_known(store, 1);
      save_checkpoint(name, store, meta_of(1), group, false, 2);
      save_checkpoint(name, store, meta_of(2), group, false, 2);
      const std::string state = name + "/step_2/state.h5";
      if (group.is_root()) {
        std::string bytes = read_text(state);
        bytes[bytes.size() / 2] ^= 1;
        write_text(state, bytes);
      }
      group.barrier();
      fill_known(store, 2);
      const std::string message =
          message_of<InputError>([&] { load_checkpoint(name + "/step_2", store, group); });
      CHECK_THAT(message, contains("step_2/state.h5: error: damaged"));
      CHECK_THAT(message, contains("step_1 is whole"));
      CHECK(count_wrong(store, 2) == 0);
    });
  }
}

TEST_CASE("stores that make no expert groups are refused on every rank", "[checkpoint]") {
  const SharedFolder folder;
  const Communicator& world = communicator();
  const auto store = make_sharded<float>(0, world.size() + 1, 3);
  CHECK_THAT(message_of<Error>(
                 [&] { save_checkpoint(folder / "c", *store, meta_of(1), world, false, 2); }),
             contains("expert groups must be consecutive ranks of one size"));
  CHECK_THROWS_AS(load_checkpoint(folder / "c/step_1", *store, world), Error);
  if (world.size() > 1) {
    // One rank that thinks otherwise.
    const auto odd = make_sharded<float>(0, world.rank() == 1 ? 2 : 1, 3);
    CHECK_THROWS_AS(save_checkpoint(folder / "c", *odd, meta_of(1), world, false, 2), Error);
  }
}

#endif
