// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/error.hpp"
#include "kokomoe/train/progress.hpp"
#include "kokomoe/train/run_control.hpp"
#include "support/catch.hpp"
#include "support/temporary_folder.hpp"

#include <csignal>
#include <filesystem>

using namespace kokomoe;
using namespace kokomoe::test;

TEST_CASE("durations are hours, minutes and seconds", "[train][run_control]") {
  CHECK(parse_duration("90") == 90);
  CHECK(parse_duration("0") == 0);
  CHECK(parse_duration("5:00") == 300);
  CHECK(parse_duration("01:02:03") == 3723);
  CHECK(parse_duration("100:00:00") == 360000);
  for (const char* text : {"", ":", "1:", ":1", "1::2", "1:60", "1:2:3:4", "1.5", "-3", "2h", " 3",
                           "0:00:99", "12345678901"}) {
    INFO(text);
    CHECK_THAT(message_of<InputError>([&] { parse_duration(text); }),
               contains("write hh:mm:ss, mm:ss or seconds"));
  }
}

TEST_CASE("a file named stop ends a run once, and goes when the run has saved", "[train][run_control]") {
  const TemporaryFolder folder;
  const Communicator alone;
  RunControl control(folder.path(), 0);
  CHECK(control.check(alone, 0) == RunRequest::none);
  write_text(folder / "stop", "");
  const RunRequest request = control.check(alone, 0);
  CHECK(request == RunRequest::stop_file);
  CHECK(ends_run(request));
  CHECK(std::filesystem::exists(folder / "stop"));
  CHECK(control.answer(request).empty());
  CHECK_FALSE(std::filesystem::exists(folder / "stop"));
  CHECK(control.check(alone, 0) == RunRequest::none);
}

TEST_CASE("a file named checkpoint_now asks for a save, once, and ends nothing", "[train][run_control]") {
  const TemporaryFolder folder;
  const Communicator alone;
  RunControl control(folder.path(), 0);
  write_text(folder / "checkpoint_now", "");
  CHECK(control.check(alone, 0) == RunRequest::checkpoint);
  CHECK_FALSE(ends_run(RunRequest::checkpoint));
  CHECK_FALSE(ends_run(RunRequest::none));
  CHECK(std::filesystem::exists(folder / "checkpoint_now"));
  CHECK(control.answer(RunRequest::checkpoint).empty());
  CHECK_FALSE(std::filesystem::exists(folder / "checkpoint_now"));
  CHECK(control.check(alone, 0) == RunRequest::none);
  // One that came after the look stays for the next step.
  write_text(folder / "checkpoint_now", "");
  CHECK(control.answer(RunRequest::none).empty());
  CHECK(control.check(alone, 0) == RunRequest::checkpoint);
  // A stop saves too: both are answered by it.
  write_text(folder / "stop", "");
  CHECK(control.check(alone, 0) == RunRequest::stop_file);
  control.answer(RunRequest::stop_file);
  CHECK_FALSE(std::filesystem::exists(folder / "checkpoint_now"));
  CHECK_FALSE(std::filesystem::exists(folder / "stop"));
}

TEST_CASE("requests from before a run are taken away and named", "[train][run_control]") {
  const TemporaryFolder folder;
  CHECK(remove_old_requests(folder.path()).empty());
  write_text(folder / "stop", "");
  write_text(folder / "checkpoint_now", "");
  const std::vector<std::string> notes = remove_old_requests(folder.path());
  REQUIRE(notes.size() == 2);
  CHECK_THAT(notes[0], contains("/stop was there before this run began"));
  CHECK_THAT(notes[1], contains("/checkpoint_now was there before this run began"));
  RunControl control(folder.path(), 0);
  CHECK(control.check(Communicator(), 0) == RunRequest::none);
}

TEST_CASE("a request that cannot be taken away is named, and not heard again", "[train][run_control]") {
  const TemporaryFolder folder;
  const Communicator alone;
  RunControl control(folder.path(), 0);
  std::filesystem::create_directories(folder / "checkpoint_now/inside");
  CHECK(control.check(alone, 0) == RunRequest::checkpoint);
  const std::string problem = control.answer(RunRequest::checkpoint);
  CHECK_THAT(problem, contains("checkpoint_now cannot be removed"));
  CHECK_THAT(problem, contains("ignored from now on"));
  CHECK(control.check(alone, 0) == RunRequest::none);
}

TEST_CASE("the wall limit counts what a step and a checkpoint take", "[train][run_control]") {
  const TemporaryFolder folder;
  const Communicator alone;
  RunControl control(folder.path(), 1000);
  CHECK(control.check(alone, 0) == RunRequest::none);
  CHECK(control.check(alone, 900) == RunRequest::none);
  CHECK(control.check(alone, 1000) == RunRequest::wall_limit);
  CHECK(control.elapsed() >= 0);
  RunControl endless(folder.path(), 0);
  CHECK(endless.check(alone, 1e9) == RunRequest::none);
}

TEST_CASE("a signal is a reason to stop, and forgotten by the next run", "[train][run_control]") {
  const int signal = GENERATE(SIGTERM, SIGINT, SIGUSR1, SIGHUP);
  const TemporaryFolder folder;
  const Communicator alone;
  {
    RunControl control(folder.path(), 0);
    std::raise(signal);
    CHECK(control.check(alone, 0) == RunRequest::signal);
    CHECK(control.check(alone, 0) == RunRequest::signal);
  }
  RunControl next(folder.path(), 0);
  CHECK(next.check(alone, 0) == RunRequest::none);
}

TEST_CASE("a terminal that closes may send SIGHUP twice", "[train][run_control]") {
  const TemporaryFolder folder;
  RunControl control(folder.path(), 0);
  std::raise(SIGHUP);
  std::raise(SIGHUP);
  CHECK(control.check(Communicator(), 0) == RunRequest::signal);
}

TEST_CASE("SIGHUP that nohup ignores stays ignored", "[train][run_control]") {
  const TemporaryFolder folder;
  std::signal(SIGHUP, SIG_IGN);
  {
    RunControl control(folder.path(), 0);
    std::raise(SIGHUP);
    CHECK(control.check(Communicator(), 0) == RunRequest::none);
  }
  CHECK(std::signal(SIGHUP, SIG_DFL) == SIG_IGN);
}

TEST_CASE("reasons to stop read well", "[train][run_control]") {
  CHECK(to_string(RunRequest::signal) == "a signal");
  CHECK(to_string(RunRequest::wall_limit) == "the wall limit");
  CHECK(to_string(RunRequest::stop_file) == "the file \"stop\"");
  CHECK(to_string(RunRequest::checkpoint) == "the file \"checkpoint_now\"");
}

TEST_CASE("counts, times and sizes are for people", "[train]") {
  CHECK(human_count(0) == "0");
  CHECK(human_count(999) == "999");
  CHECK(human_count(999.7) == "1.00k");
  CHECK(human_count(1234) == "1.23k");
  CHECK(human_count(12345) == "12.3k");
  CHECK(human_count(123456) == "123k");
  CHECK(human_count(999999) == "1.00M");
  CHECK(human_count(4.56e6) == "4.56M");
  CHECK(human_count(2e9) == "2.00G");
  CHECK(human_count(5e15) == "5000T");

  CHECK(human_time(0) == "0s");
  CHECK(human_time(-5) == "0s");
  CHECK(human_time(59.4) == "59s");
  CHECK(human_time(59.6) == "1m00s");
  CHECK(human_time(200) == "3m20s");
  CHECK(human_time(3599.7) == "1h00m");
  CHECK(human_time(3720) == "1h02m");

  CHECK(human_bytes(0) == "0 B");
  CHECK(human_bytes(1023) == "1023 B");
  CHECK(human_bytes(1536) == "1.50 KiB");
  CHECK(human_bytes(12.0 * 1024 * 1024) == "12.0 MiB");
  CHECK(human_bytes(1.5 * 1024 * 1024 * 1024) == "1.50 GiB");
}
