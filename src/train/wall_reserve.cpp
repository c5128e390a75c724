// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "train/wall_reserve.hpp"

namespace kokomoe::detail {

namespace {

// A slow disk, to write a checkpoint, to sync it and to read it back; and its latency.
constexpr double disk_bytes_per_second = 1e8, disk_latency = 1;
// Forward is a third of a step's work; the rest is for what an evaluation asks for the first time.
constexpr double evaluation_of_step = 0.5;

}  // namespace

WallReserve::WallReserve(double checkpoint_bytes, double evaluation_tokens)
    : checkpoint_bytes_(checkpoint_bytes), evaluation_tokens_(evaluation_tokens) {}

void WallReserve::step_took(double seconds, double tokens) {
  average_ = average_ == 0 ? seconds : 0.9 * average_ + 0.1 * seconds;
  step_tokens_ = tokens;
}

double WallReserve::evaluation_seconds() const {
  if (evaluation_ >= 0) return evaluation_;
  return step_tokens_ > 0 ? evaluation_of_step * average_ * evaluation_tokens_ / step_tokens_ : 0;
}

double WallReserve::save_seconds() const {
  return save_ >= 0 ? save_ : disk_latency + checkpoint_bytes_ / disk_bytes_per_second;
}

double WallReserve::seconds(bool evaluates) const {
  // Twice a step: one may take longer than the others.
  return 2 * average_ + (evaluates ? evaluation_seconds() : 0) + save_seconds();
}

}  // namespace kokomoe::detail
