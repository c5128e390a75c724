// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/io/checkpoint.hpp"
#include "kokomoe/io/json_lines.hpp"
#include "kokomoe/train/progress.hpp"
#include "kokomoe/train/run_control.hpp"
#include "kokomoe/train/task.hpp"
#include "kokomoe/train/training_run.hpp"
#include "kokomoe/train/watchdog.hpp"
#include "train/checkpoint_deck.hpp"
#include "train/wall_reserve.hpp"

#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace kokomoe::detail {

/// Checkpoints carry their tokenizer: neither a cache nor the text it was trained on is needed.
std::shared_ptr<const Tokenizer> tokenizer_of(const CheckpointMeta& meta);

/// Everything of one run that outlives a step.
template <class T>
class TrainingLoop {
 public:
  /// Makes model and data, reads the checkpoint `saved` (none: a fresh start) and makes the run
  /// folder a run. Collective.
  TrainingLoop(const TrainingOptions& options, const Deck& deck, Task& task,
               const Communicator& communicator, const std::optional<SavedRun>& saved);

  /// True when the deck's steps are done, false when something ended them early, after a save.
  bool train();

 private:
  void say_model();
  void measure_gemm();
  void resume(const std::string& checkpoint, bool changed_data);
  void write_metrics(const UpdateReport& report, double seconds);
  bool evaluates_after(std::int64_t step) const;
  void write_samples();
  bool evaluate(const UpdateReport& update);
  void write_machine() const;
  void go_back();
  void count_skipped(const UpdateReport& report);
  void end_row();
  double save(bool best, bool must, RunRequest request);

  std::string folder_;
  Deck deck_;
  TrainConfig config_;
  const Communicator& communicator_;
  bool failed_saves_go_on_;
  double watchdog_seconds_;
  RunControl control_;
  Progress progress_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::string data_digest_;  ///< of the training text, 16 hexadecimal digits
  std::unique_ptr<Trainer<T>> model_;
  std::optional<Watchdog> watchdog_;
  double gemm_rate_ = 0;  ///< of all ranks together
  JsonLines metrics_;
  std::vector<double> column_;
  std::int64_t step_ = 0;
  std::int64_t tokens_ = 0;
  std::int64_t skipped_ = 0, skipped_in_row_ = 0;
  std::int64_t lost_rows_ = 0;
  double best_loss_ = std::numeric_limits<double>::infinity();
  double saved_best_loss_ = std::numeric_limits<double>::infinity();
  std::int64_t best_step_ = 0, saved_best_step_ = 0;  ///< of these losses; 0: there is none
  std::optional<WallReserve> reserve_;
};

}  // namespace kokomoe::detail
