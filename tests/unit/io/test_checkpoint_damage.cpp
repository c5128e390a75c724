// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause

// Flipped bytes, truncations and crashes.
#include "checkpoint_fixture.hpp"
#include "kokomoe/core/error.hpp"
#include "support/catch.hpp"
#include "support/temporary_folder.hpp"

#include <nlohmann/json.hpp>

#include <functional>

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

std::string load_error(const std::string& step) {
  auto store = make_store<float>(9);
  const std::string before = bits_of(*store);
  const std::string message =
      message_of<InputError>([&] { load_checkpoint(step, *store, Communicator()); });
  CHECK(bits_of(*store) == before);
  return message;
}

std::string flipped(std::string text, std::size_t at) {
  text[at] = static_cast<char>(text[at] ^ (1 << (at % 8)));
  return text;
}

int operations = 0;
int crash_at = -1;
struct Crash {};

void count_or_crash(const char*, const std::string&) {
  if (operations++ == crash_at) throw Crash();
}

/// Runs `work` with a crash at operation `at`; false when it got through.
bool crashes(int at, const std::function<void()>& work) {
  operations = 0;
  crash_at = at;
  detail::checkpoint_hook = count_or_crash;
  bool crashed = false;
  try {
    work();
  } catch (const Crash&) {
    crashed = true;
  }
  detail::checkpoint_hook = nullptr;
  return crashed;
}

}  // namespace

TEST_CASE("every flipped byte is found and named", "[checkpoint]") {
  const TemporaryFolder folder;
  save(folder.path(), *make_store<float>(1), 1);
  save(folder.path(), *make_store<float>(2), 2);
  const std::string step = folder / "step_2";
  const std::string state = read_text(step + "/state.h5");
  const std::string manifest = read_text(step + "/manifest.json");
  const auto datasets = nlohmann::json::parse(manifest)["datasets"];

  SECTION("in the tensors' data, with the dataset") {
    REQUIRE(datasets.size() == 34);
    for (const auto& dataset : datasets) {
      const auto offset = dataset["offset"].get<std::size_t>();
      const auto bytes = dataset["bytes"].get<std::size_t>();
      for (const std::size_t at : {offset, offset + bytes / 2, offset + bytes - 1}) {
        write_text(step + "/state.h5", flipped(state, at));
        const std::string error = load_error(step);
        INFO(error);
        CHECK_THAT(error, contains("step_2/state.h5: error: damaged"));
        CHECK_THAT(error, contains("damage lies in /" + dataset["name"].get<std::string>() + "\n"));
        CHECK_THAT(error, contains(folder / "step_1 is whole: use -r " + folder / "step_1"));
      }
    }
  }
  SECTION("anywhere in the file") {
    for (int i = 0; i < 100; ++i) {
      write_text(step + "/state.h5",
                 flipped(state, static_cast<std::size_t>(i) * (state.size() - 1) / 99));
      CHECK_THAT(load_error(step), contains("step_2/state.h5: error: damaged"));
    }
  }
  SECTION("anywhere in the manifest") {
    for (std::size_t at = 0; at < manifest.size(); at += 37) {
      write_text(step + "/manifest.json", flipped(manifest, at));
      CHECK_THAT(load_error(step), contains("step_2/manifest.json: error: damaged"));
    }
    for (std::size_t at = manifest.size() - 40; at < manifest.size(); ++at) {
      write_text(step + "/manifest.json", flipped(manifest, at));
      CHECK_THAT(load_error(step), contains("step_2/manifest.json: error: damaged"));
    }
  }
  SECTION("as truncations and growth") {
    for (const std::size_t size :
         {std::size_t(0), std::size_t(7), state.size() / 2, state.size() - 1}) {
      write_text(step + "/state.h5", state.substr(0, size));
      CHECK_THAT(load_error(step),
                 contains("step_2/state.h5: error: damaged: " + std::to_string(size) +
                          " bytes, but the manifest says " + std::to_string(state.size())));
    }
    write_text(step + "/state.h5", state + "x");
    CHECK_THAT(load_error(step), contains("damaged"));
    write_text(step + "/state.h5", state);
    for (const std::size_t size :
         {std::size_t(0), std::size_t(20), manifest.size() / 2, manifest.size() - 1}) {
      write_text(step + "/manifest.json", manifest.substr(0, size));
      CHECK_THAT(load_error(step), contains("step_2/manifest.json: error: damaged"));
    }
  }
  SECTION("as missing files") {
    std::filesystem::remove(step + "/state.h5");
    CHECK_THAT(load_error(step), contains("step_2/state.h5: error: file not found"));
    std::filesystem::remove(step + "/manifest.json");
    CHECK_THAT(load_error(step), contains("step_2/manifest.json: error: manifest not found"));
    std::filesystem::remove_all(step);
    CHECK_THAT(load_error(step), contains("step_2: error: checkpoint folder not found"));
  }
  SECTION("with nothing left to offer") {
    write_text(step + "/state.h5", flipped(state, 100));
    write_text(folder / "step_1/manifest.json", "");
    CHECK_THAT(load_error(step), contains("no other checkpoint in " + folder.path() + " is whole"));
  }
  SECTION("by inspect too") {
    write_text(step + "/state.h5", flipped(state, state.size() / 2));
    CHECK_THROWS_AS(inspect_checkpoint(step), InputError);
    CHECK_THROWS_AS(compare_checkpoints(folder / "step_1", step), InputError);
  }
}

TEST_CASE("a crash at any operation of a save leaves a checkpoint to go on from", "[checkpoint]") {
  const TemporaryFolder run;
  auto first = make_store<float>(1);
  auto second = make_store<float>(2);
  auto third = make_store<float>(3);
  const auto prepare = [&](const std::string& folder) {
    std::filesystem::remove_all(folder);
    save(folder, *first, 1, true);
    save(folder, *second, 2);
    save(folder, *second, 3);
  };
  const auto check_from = [&](const std::string& folder, std::int64_t old_step, std::int64_t step) {
    auto loaded = make_store<float>(9);
    const std::string found = resolve_checkpoint(folder);
    const CheckpointMeta meta = load_checkpoint(found, *loaded, Communicator());
    CHECK((meta.step == old_step || meta.step == step));
    const std::string bits = bits_of(*loaded);
    CHECK((bits == bits_of(*second) || (meta.step == step && bits == bits_of(*third))));
    // The best is there still.
    const std::string best = resolve_checkpoint(folder + "/best");
    load_checkpoint(best, *loaded, Communicator());
    // Going on works, and tidies up.
    save(folder, *third, step);
    CHECK(resolve_checkpoint(folder) == folder + "/step_" + std::to_string(step));
    load_checkpoint(resolve_checkpoint(folder), *loaded, Communicator());
    CHECK(bits_of(*loaded) == bits_of(*third));
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      INFO(entry.path());
      CHECK(entry.path().extension() != ".tmp");
      CHECK(entry.path().extension() != ".old");
    }
  };
  // 4: a new step; 3: one that is there already.
  for (const std::int64_t step : {std::int64_t(4), std::int64_t(3)}) {
    int at = 0;
    for (bool crashed = true; crashed; ++at) {
      INFO("step " << step << ", operation " << at);
      const std::string folder = run / "checkpoints";
      prepare(folder);
      crashed = crashes(at, [&] { save(folder, *third, step, true); });
      if (!crashed)
        CHECK(bits_of(*third) == [&] {
          auto loaded = make_store<float>(9);
          load_checkpoint(resolve_checkpoint(folder), *loaded, Communicator());
          return bits_of(*loaded);
        }());
      check_from(folder, 3, step);
    }
    CHECK(at > 40);  // 34 datasets, the files, their syncs and renames
  }
}

TEST_CASE("a crash in the first save leaves nothing or all of it", "[checkpoint]") {
  const TemporaryFolder run;
  auto store = make_store<float>(1);
  int with = 0, without = 0;
  for (int at = 0;; ++at) {
    std::filesystem::remove_all(run / "checkpoints");
    const bool crashed = crashes(at, [&] { save(run / "checkpoints", *store, 1, true); });
    if (has_checkpoint(run.path())) {
      CHECK(resolve_checkpoint(run / "checkpoints/best") == run / "checkpoints/step_1");
      auto loaded = make_store<float>(9);
      load_checkpoint(resolve_checkpoint(run.path()), *loaded, Communicator());
      CHECK(bits_of(*loaded) == bits_of(*store));
      ++with;
    } else {
      CHECK_THROWS_AS(resolve_checkpoint(run.path()), InputError);
      ++without;
    }
    if (!crashed) break;
  }
  CHECK(with >= 3);
  CHECK(without > 35);
}
