// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "study/gate.hpp"

#include "kokomoe/core/error.hpp"
#include "study/host_copies.hpp"

#include <numeric>

namespace kokomoe::study {

Gate::Gate(const EstimatorForm& form, int experts, int k, std::uint64_t seed)
    : experts_(experts),
      k_(k),
      router_(make_router<double>(form.router, {2, experts, k, 0, "router"}, form.options, store_)),
      info_(router_->estimator()) {
  store_.allocate(ExecutionSpace(), 1);
  ctx_.communicator = &alone_;
  ctx_.saved = &saved_;
  ctx_.scratch = &scratch_;
  ctx_.loss_scale = 1;
  ctx_.seed = seed;
  if (info_.objective == Objective::none)
    throw InputError("router \"" + form.router + "\" draws nothing: there is no estimator to study");
}

void Gate::set_rows(std::size_t rows) {
  saved_.reset();
  scratch_.reset();
  if (static_cast<std::size_t>(ctx_.tokens.tokens) != rows) {
    std::vector<int> offsets(rows + 1);
    std::iota(offsets.begin(), offsets.end(), 0);
    std::vector<std::uint32_t> sequence(rows);
    std::iota(sequence.begin(), sequence.end(), 0u);
    PackedTokens tokens;
    tokens.tokens = tokens.sequences = static_cast<int>(rows);
    tokens.max_length = 1;
    tokens.sequence_offsets = device_copy(offsets);
    tokens.sequence_index = device_copy(sequence);
    tokens.position = device_copy(std::vector<int>(rows, 0));
    ctx_.tokens = tokens;
    ctx_.update_tokens = static_cast<double>(rows);
    logits_ = Matrix<double>("kokomoe::study::logits", rows, static_cast<std::size_t>(experts_));
  }
}

void Gate::read(std::vector<double>& weight, std::vector<int>* chosen) {
  Kokkos::fence("kokomoe::study::gate");
  const std::size_t rows = logits_.extent(0);
  const auto slots = static_cast<std::size_t>(routing_.slots_per_token);
  const std::vector<double> all = to_host(routing_.weight);
  const std::vector<int> expert = to_host(routing_.expert);
  if (info_.objective == Objective::scaled) {
    weight = all;
    if (chosen != nullptr) *chosen = expert;
    return;
  }
  // Every expert has a slot, and the chosen one's weight is 1.
  weight.assign(rows, 1.0);
  if (chosen == nullptr) return;
  chosen->assign(rows, -1);
  for (std::size_t n = 0; n < all.size(); ++n)
    if (all[n] != 0) (*chosen)[n / slots] = expert[n];
}

void Gate::follow(const std::vector<double>& logits, const std::vector<int>& chosen,
                  const std::vector<double>& scale, std::vector<double>& weight) {
  const auto e_count = static_cast<std::size_t>(experts_);
  const std::size_t rows = logits.size() / e_count;
  set_rows(rows);
  to_device(logits_, logits);
  chosen_ = chosen;
  Routing<double> replay;
  replay.tokens = static_cast<int>(rows);
  replay.experts = experts_;
  const bool every_expert = info_.objective == Objective::plain;
  replay.slots_per_token = every_expert ? experts_ : k_;
  const auto slots = static_cast<std::size_t>(replay.slots_per_token);
  std::vector<int> token(rows * slots), expert(rows * slots);
  std::vector<double> scales(rows * slots);
  std::vector<unsigned char> counted(rows * slots, 1);
  for (std::size_t n = 0; n < token.size(); ++n) {
    token[n] = static_cast<int>(n / slots);
    if (every_expert) {
      expert[n] = static_cast<int>(n % slots);
      scales[n] = chosen[n / slots] == expert[n] ? 1 : 0;
      counted[n] = chosen[n / slots] == expert[n] ? 1 : 0;
    } else {
      expert[n] = chosen[n];
      scales[n] = scale[n];
    }
  }
  replay.token = device_copy(token);
  replay.expert = device_copy(expert);
  replay.scale = device_copy(scales);
  replay.weight = device_copy(scales);
  if (every_expert) replay.counted = device_copy(counted);
  const std::size_t rounds = every_expert ? 1 : static_cast<std::size_t>(k_);
  replay.kept = Matrix<unsigned char>("kokomoe::study::kept", rows, rounds * e_count);
  Kokkos::deep_copy(replay.kept, static_cast<unsigned char>(1));
  routing_ = router_->route_logits(ctx_, logits_, &replay);
  read(weight, nullptr);
}

void Gate::draw(const std::vector<double>& logits, std::uint64_t step, std::vector<int>& chosen,
                std::vector<double>& weight) {
  set_rows(logits.size() / static_cast<std::size_t>(experts_));
  to_device(logits_, logits);
  ctx_.step = step;
  routing_ = router_->route_logits(ctx_, logits_, nullptr);
  read(weight, &chosen);
  chosen_ = chosen;
}

std::vector<double> Gate::choice_probability(const std::vector<double>& weight) const {
  const std::size_t rows = logits_.extent(0);
  std::vector<double> result(rows, 1.0);
  if (info_.objective == Objective::plain) {
    const std::vector<double> p = to_host(routing_.probability);
    for (std::size_t t = 0; t < rows; ++t)
      result[t] = p[t * static_cast<std::size_t>(experts_) + static_cast<std::size_t>(chosen_[t])];
    return result;
  }
  const auto k = static_cast<std::size_t>(k_);
  for (std::size_t n = 0; n < weight.size(); ++n) result[n / k] *= weight[n];
  return result;
}

std::vector<double> Gate::backward(const std::vector<double>& inner,
                                   const std::vector<double>& loss) {
  const auto e_count = static_cast<std::size_t>(experts_), k = static_cast<std::size_t>(k_);
  const std::size_t rows = logits_.extent(0);
  std::vector<double> d_weight;
  if (info_.objective == Objective::plain) {
    d_weight = inner;
  } else {
    d_weight.resize(rows * k);
    for (std::size_t n = 0; n < d_weight.size(); ++n)
      d_weight[n] = inner[n / k * e_count + static_cast<std::size_t>(chosen_[n])];
  }
  RouterFeedback<double> feedback;
  feedback.d_weight = device_copy(d_weight);
  ctx_.sequence_loss = device_copy(loss);
  const Matrix<double> d_logits("kokomoe::study::d_logits", rows, e_count);
  router_->logits_backward(ctx_, logits_, routing_, feedback, d_logits);
  Kokkos::fence("kokomoe::study::backward");
  return to_host(d_logits);
}

}  // namespace kokomoe::study
