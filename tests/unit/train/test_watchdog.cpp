// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/error.hpp"
#include "kokomoe/parallel/pulse.hpp"
#include "kokomoe/train/watchdog.hpp"
#include "support/catch.hpp"
#include "support/temporary_folder.hpp"

#include <chrono>
#include <filesystem>
#include <thread>

using namespace kokomoe;
using namespace kokomoe::test;
using detail::Heartbeat;

namespace {

Heartbeat at_work(std::uint64_t written, std::uint64_t phase_number, const std::string& process) {
  Heartbeat h;
  h.found = true;
  h.written = written;
  h.phase_number = phase_number;
  h.step = 7;
  h.phase = "update";
  h.process = process;
  return h;
}

Heartbeat waiting(std::uint64_t written, std::uint64_t phase_number, std::uint64_t collectives) {
  Heartbeat h = at_work(written, phase_number, "process 1 on a");
  h.waits_in = "all_reduce_sum";
  h.collectives = collectives;
  return h;
}

/// The same, one write later.
std::vector<Heartbeat> alive(std::vector<Heartbeat> all) {
  for (Heartbeat& h : all) ++h.written;
  return all;
}

}  // namespace

TEST_CASE("a heartbeat is one line of fixed length that reads back", "[train]") {
  Heartbeat h = waiting(12345, 17, 99);
  h.process = "process 12 on node3.cluster";
  const std::string line = detail::format_heartbeat(h);
  CHECK(line.size() == detail::format_heartbeat({}).size());
  const Heartbeat back = detail::parse_heartbeat(line);
  CHECK(back.found);
  CHECK(back.written == 12345);
  CHECK(back.phase_number == 17);
  CHECK(back.step == 7);
  CHECK(back.collectives == 99);
  CHECK(back.phase == "update");
  CHECK(back.waits_in == "all_reduce_sum");
  CHECK(back.process == h.process);
  h.waits_in.clear();
  CHECK(detail::parse_heartbeat(detail::format_heartbeat(h)).waits_in.empty());
  for (const std::string& broken :
       {std::string(), line.substr(1), line.substr(0, 40), std::string(line.size(), 'x')})
    CHECK_FALSE(detail::parse_heartbeat(broken).found);
}

TEST_CASE("ranks are listed in runs", "[train]") {
  CHECK(detail::rank_list({3}) == "rank 3");
  CHECK(detail::rank_list({0, 1}) == "ranks 0, 1");
  CHECK(detail::rank_list({0, 1, 2, 5, 7, 8}) == "ranks 0-2, 5, 7, 8");
}

TEST_CASE("the report names who has not arrived", "[train]") {
  const Heartbeat w = waiting(5, 20, 40), late = at_work(5, 20, "process 9 on b");
  SECTION("a rank at work while the others wait") {
    const std::vector<Heartbeat> all{w, w, late};
    const std::string text = detail::stall_report(all, alive(all), 30);
    CHECK_THAT(text, contains("no progress for 30 s in the update of step 7"));
    CHECK_THAT(text, contains("not arrived: rank 2 (process 9 on b), at work in the update"));
    CHECK_THAT(text, contains("arrived, waiting: ranks 0, 1 in all_reduce_sum"));
  }
  SECTION("a process that is stopped, even inside of the call") {
    std::vector<Heartbeat> before{w, w, w}, after = alive(before);
    after[1].written = before[1].written;
    const std::string text = detail::stall_report(before, after, 30);
    CHECK_THAT(text, contains("not arrived: rank 1 (process 1 on a), which does not answer"));
    CHECK_THAT(text, contains("arrived, waiting: ranks 0, 2 in all_reduce_sum"));
  }
  SECTION("a rank that is a phase behind") {
    const std::vector<Heartbeat> all{w, waiting(5, 19, 39), w};
    CHECK_THAT(detail::stall_report(all, alive(all), 30), contains("not arrived: rank 1 ("));
  }
  SECTION("a rank without a file") {
    const std::vector<Heartbeat> all{w, Heartbeat()};
    CHECK_THAT(detail::stall_report(all, alive(all), 30),
               contains("not arrived: rank 1 (there is no file of it in RUN/heartbeat)"));
  }
  SECTION("all wait, one of them in an earlier call") {
    const std::vector<Heartbeat> all{w, w, waiting(5, 20, 38)};
    const std::string text = detail::stall_report(all, alive(all), 30);
    CHECK_THAT(text, contains("not arrived: rank 2 (process 1 on a), in all_reduce_sum, 2 calls"));
    CHECK_THAT(text, contains("arrived, waiting: ranks 0, 1"));
  }
  SECTION("all have arrived") {
    const std::vector<Heartbeat> all{w, w};
    const std::string text = detail::stall_report(all, alive(all), 30);
    CHECK_THAT(text, contains("every rank has arrived"));
    CHECK(text.find("not arrived") == std::string::npos);
  }
}

TEST_CASE("without seconds there is no watchdog, and no file", "[train]") {
  const TemporaryFolder folder;
  Watchdog none(folder.path(), 0, Communicator());
  none.enter(1, "update");
  CHECK_FALSE(std::filesystem::exists(folder / "heartbeat"));
}

TEST_CASE("a watchdog sees progress, and leaves nothing behind", "[train]") {
  const TemporaryFolder folder;
  {
    Watchdog watchdog(folder.path(), 0.4, Communicator());
    CHECK(std::filesystem::exists(folder / "heartbeat/rank_0"));
    // Four times its limit, each sign of another kind.
    for (int i = 0; i < 16; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      if (i % 3 == 0) watchdog.enter(i, "update");
      if (i % 3 == 1) mark_progress();
      if (i % 3 == 2) const WaitingForRanks waits("barrier");
    }
  }
  CHECK_FALSE(std::filesystem::exists(folder / "heartbeat"));
}

TEST_CASE("a folder that a watchdog cannot write to is refused", "[train]") {
  const TemporaryFolder folder;
  write_text(folder / "run", "no folder");
  CHECK_THAT(message_of<Error>([&] { Watchdog(folder / "run", 5, Communicator()); }),
             contains("cannot be made for the watchdog -w"));
}
