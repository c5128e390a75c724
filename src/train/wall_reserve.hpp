// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

namespace kokomoe::detail {

/// What a run keeps of its wall limit: the next step, its evaluation, and a save. Before there was
/// an evaluation or a save, it is guessed, rather too long than too short: the first save may be
/// the one that has to be done before the limit.
class WallReserve {
 public:
  /// Of a checkpoint, and of one evaluation over all ranks.
  WallReserve(double checkpoint_bytes, double evaluation_tokens);

  void step_took(double seconds, double tokens);
  void evaluation_took(double seconds) { evaluation_ = seconds; }
  void save_took(double seconds) { save_ = seconds; }

  /// Of the last steps, on average; 0 before the first.
  double step_seconds() const { return average_; }
  /// To be kept, when the next step ends with an evaluation or not.
  double seconds(bool evaluates) const;

 private:
  double evaluation_seconds() const;
  double save_seconds() const;

  double checkpoint_bytes_, evaluation_tokens_;
  double average_ = 0, step_tokens_ = 0;
  double evaluation_ = -1, save_ = -1;  ///< the last one's; -1: none yet
};

}  // namespace kokomoe::detail
