// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/error.hpp"
#include "kokomoe/io/json_lines.hpp"
#include "support/catch.hpp"
#include "support/temporary_folder.hpp"

#include <nlohmann/json.hpp>

#include <sys/resource.h>

#include <csignal>
#include <cstdlib>
#include <limits>
#include <vector>

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

/// Sets how large this process may make files; as before when it goes.
class FileSizeLimit {
 public:
  FileSizeLimit() {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    signal_ = std::signal(SIGXFSZ, SIG_IGN);
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, signal_);
  }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;
  void set(std::size_t bytes) const {
    const rlimit limit = {bytes, before_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }

 private:
  rlimit before_ = {};
  void (*signal_)(int) = nullptr;
};

}  // namespace

TEST_CASE("rows are JSON objects that keep every bit", "[json_lines]") {
  const TemporaryFolder folder;
  const std::string path = folder / "metrics.jsonl";
  const double third = 1.0 / 3, tiny = 5e-324, whole = 1e22;
  {
    JsonLines log(path);
    const std::vector<double> shares = {0.1, std::numeric_limits<double>::quiet_NaN()};
    const std::vector<std::int64_t> counts = {1, -2};
    log.begin().field("step", 1).field("third", third).field("tiny", tiny).field("whole", whole);
    log.field("text", "a \"b\"\n\x01 \\").field("flag", true).field("shares", shares);
    log.field("counts", counts).field("inf", std::numeric_limits<double>::infinity()).end();
    // Written at once, not when the log ends.
    const auto row = nlohmann::json::parse(read_text(path));
    CHECK(row["step"] == 1);
    CHECK(row["third"].get<double>() == third);
    CHECK(row["tiny"].get<double>() == tiny);
    CHECK(row["whole"].is_number_float());
    CHECK(row["whole"].get<double>() == whole);
    CHECK(row["text"] == "a \"b\"\n\x01 \\");
    CHECK(row["flag"] == true);
    CHECK(row["shares"][0] == 0.1);
    CHECK(row["shares"][1].is_null());
    CHECK(row["counts"] == nlohmann::json({1, -2}));
    CHECK(row["inf"].is_null());
    log.begin().field("step", std::int64_t(2)).end();
  }
  JsonLines(path).begin().field("loss", 100.0).end();  // appends
  CHECK_THAT(read_text(path), contains("\n{\"step\": 2}\n{\"loss\": 100.0}\n"));
  JsonLines nowhere;
  nowhere.begin().field("step", 1).end();
  CHECK_THROWS_AS(JsonLines(folder / "no/such.jsonl"), Error);
}

TEST_CASE("a row that does not fit leaves no half of itself", "[json_lines]") {
  const TemporaryFolder folder;
  const std::string path = folder / "metrics.jsonl";
  // A file may not grow past a byte in the middle of the second row.
  const FileSizeLimit limit;
  JsonLines log(path);
  log.begin().field("step", 1).end();
  const std::string first = read_text(path);
  limit.set(first.size() + 5);
  for (int attempt = 0; attempt < 2; ++attempt) {
    CHECK_THAT(message_of<Error>([&] { log.begin().field("step", 2).end(); }),
               contains("metrics.jsonl"));
    CHECK(read_text(path) == first);
  }
  JsonLines moved = std::move(log);
  limit.set(1 << 20);
  moved.begin().field("step", 3).end();
  CHECK(read_text(path) == first + "{\"step\": 3}\n");
}

TEST_CASE("truncate_after cuts later rows and a torn end", "[json_lines]") {
  const TemporaryFolder folder;
  const std::string path = folder / "metrics.jsonl";
  JsonLines::truncate_after(path, 3);  // nothing there: fine
  CHECK_FALSE(std::filesystem::exists(path));
  const std::string head = "{\"step\": 1, \"loss\": 2.5}\n{\"note\": \"no step\"}\n{\"step\": 2}\n";
  write_text(path, head + "{\"step\": 3}\n{\"step\": 4, \"lo");
  JsonLines::truncate_after(path, 2);
  CHECK(read_text(path) == head);
  const auto time = std::filesystem::last_write_time(path);
  JsonLines::truncate_after(path, 2);
  CHECK(std::filesystem::last_write_time(path) == time);
  // A last row that lost only its newline is kept and completed.
  write_text(path, head + "{\"step\": 2}");
  JsonLines::truncate_after(path, 2);
  CHECK(read_text(path) == head + "{\"step\": 2}\n");
}
