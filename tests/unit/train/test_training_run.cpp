// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/error.hpp"
#include "kokomoe/train/run_folder.hpp"
#include "kokomoe/train/training_run.hpp"
#include "support/catch.hpp"
#include "support/tiny_training.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <sstream>

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

/// Sends what a run prints to nowhere.
class Quiet {
 public:
  Quiet() : kept_((std::fflush(stdout), dup(STDOUT_FILENO))) {
    const int nowhere = open("/dev/null", O_WRONLY);
    dup2(nowhere, STDOUT_FILENO);
    close(nowhere);
  }
  ~Quiet() {
    std::fflush(stdout);
    dup2(kept_, STDOUT_FILENO);
    close(kept_);
  }
  Quiet(const Quiet&) = delete;
  Quiet& operator=(const Quiet&) = delete;

 private:
  int kept_;
};

struct Runs {
  Runs() { write_text(tiny.folder() / "deck.toml", tiny.deck_text()); }
  /// Overrides: 6 steps, evaluation every 2.
  bool train(const std::string& run, const std::string& resume = "",
             std::vector<std::string> more = {}, double wall_seconds = 0) const {
    TrainingOptions options;
    options.deck = tiny.folder() / "deck.toml";
    options.run_folder = tiny.folder() / run;
    options.resume = resume;
    options.wall_seconds = wall_seconds;
    options.overrides = {"train/steps=6", "train/eval_every=2", "model/dropout=0.1"};
    options.overrides.insert(options.overrides.end(), more.begin(), more.end());
    const Quiet quiet;
    return kokomoe::train(options, tiny.alone());
  }
  std::vector<std::vector<float>> values(const std::string& run) const {
    const auto loaded = load_language_model<float>(tiny.folder() / run, {}, tiny.alone());
    return all_values(loaded.model->store());
  }
  /// Metric lines up to the first field that is a time.
  std::vector<std::string> losses(const std::string& run) const {
    std::vector<std::string> lines;
    std::istringstream text(read_text(tiny.folder() / run + "/metrics.jsonl"));
    for (std::string line; std::getline(text, line);)
      lines.push_back(line.substr(0, line.find("\"tokens_per_second\"")));
    return lines;
  }
  TinyTraining tiny;
};

}  // namespace

TEST_CASE("a run that is stopped and resumed ends with the bits of one in a piece", "[train]") {
  const Runs runs;
  CHECK(runs.train("whole"));
  int pieces = 0;
  bool done = false;
  // A limit that leaves no time for a second step.
  for (; !done && pieces < 10; ++pieces)
    done = runs.train("parts", pieces == 0 ? "" : "last", {}, pieces < 3 ? 0.001 : 0);
  CHECK(pieces == 4);
  CHECK(runs.values("whole") == runs.values("parts"));
  CHECK(runs.losses("whole") == runs.losses("parts"));
  CHECK(runs.losses("whole").size() == 6 + 3);
}

TEST_CASE("a run folder that holds a run is not written over", "[train]") {
  const Runs runs;
  runs.train("run");
  CHECK_THAT(message_of<InputError>([&] { runs.train("run"); }), contains("-r last"));
}

TEST_CASE("resume last in an empty folder starts, and a missing checkpoint is refused", "[train]") {
  const Runs runs;
  CHECK(runs.train("fresh", "last"));
  CHECK_THROWS_AS(runs.train("other", runs.tiny.folder() / "nowhere"), InputError);
}

TEST_CASE("a missing corpus is refused before the run folder is made a run", "[train]") {
  const Runs runs;
  const std::string message = message_of<InputError>(
      [&] { runs.train("run", "", {"data/train=" + (runs.tiny.folder() / "nothing.txt")}); });
  CHECK_THAT(message, contains("nothing.txt"));
  CHECK_FALSE(std::filesystem::exists(runs.tiny.folder() / "run/effective.toml"));
}

TEST_CASE("resume last after the checkpoints are gone is refused and cuts nothing", "[train]") {
  const Runs runs;
  runs.train("run");
  const std::string metrics = runs.tiny.folder() / "run/metrics.jsonl";
  const std::string before = read_text(metrics);
  std::filesystem::remove_all(runs.tiny.folder() / "run/checkpoints");
  CHECK_THAT(message_of<InputError>([&] { runs.train("run", "last"); }),
             contains("has lost its checkpoints"));
  CHECK(read_text(metrics) == before);
}

TEST_CASE("a run folder that another training uses is refused, whatever it holds", "[train]") {
  const Runs runs;
  {
    RunLock other;
    other.take(runs.tiny.folder() / "run");
    for (const char* resume : {"", "last"})
      CHECK_THAT(message_of<InputError>([&] { runs.train("run", resume); }),
                 contains("run\" is in use by process"));
  }
  CHECK(runs.train("run"));
}

TEST_CASE("the run folder is looked at before text becomes tokens", "[train]") {
  const Runs runs;
  write_text(runs.tiny.folder() / "run", "");
  CHECK_THAT(message_of<InputError>([&] { runs.train("run"); }),
             contains("run: error: the run folder cannot be made"));
  CHECK_FALSE(std::filesystem::exists(runs.tiny.folder() / "cache"));
}

TEST_CASE("a trained model cannot be loaded as another", "[train]") {
  const Runs runs;
  runs.train("run");
  const std::string run = runs.tiny.folder() / "run";
  const auto refusal = [&](const std::string& change) {
    return message_of<InputError>(
        [&] { load_language_model<float>(run, {change}, runs.tiny.alone()); });
  };
  CHECK_THAT(refusal("moe/router=switch"),
             contains("step_6 was trained with moe/router = \"sparsemixer\", not \"switch\""));
  CHECK_THAT(refusal("model/layers=1"), contains("model/layers = 2, not 1"));
  CHECK_THAT(refusal("run/precision=double"), contains("run/precision = \"float\""));
  CHECK_THAT(refusal("data/vocabulary=300"), contains("data/vocabulary = 8000, not 300"));
  load_language_model<float>(run, {"data/heldout=other.txt", "moe/router=sparsemixer"},
                             runs.tiny.alone());
}

TEST_CASE("a loaded model evaluates as its run did", "[train]") {
  const Runs runs;
  runs.train("run");
  const auto loaded = load_language_model<float>(runs.tiny.folder() / "run", {}, runs.tiny.alone());
  CHECK(loaded.step == 6);
  const EvaluationReport report =
      loaded.model->evaluate(EvalWindows(runs.tiny.corpus("heldout.txt"), 16, 0, 128));
  const std::vector<std::string> lines = runs.losses("run");
  const std::string& last = lines.back();
  const std::string key = "\"eval_loss\":";
  const std::size_t at = last.find(key);
  REQUIRE(at != std::string::npos);
  CHECK(std::stod(last.substr(at + key.size())) == Approx(report.loss).epsilon(1e-9));
}
