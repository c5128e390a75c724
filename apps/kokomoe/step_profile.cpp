// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "step_profile.hpp"

#include <algorithm>

namespace kokomoe::app {

namespace {

/// What a label that begins so stands for; all others belong to whatever they run inside of.
struct Rule {
  const char* prefix;
  StepPart part;
};
constexpr Rule rules[] = {{"kokomoe::nn::embedding", StepPart::embedding},
                          {"kokomoe::nn::attention", StepPart::attention},
                          {"kokomoe::nn::cross_attention", StepPart::attention},
                          {"kokomoe::nn::norm", StepPart::norms},
                          {"kokomoe::moe::router", StepPart::router},
                          {"kokomoe::moe::routing", StepPart::router},
                          {"kokomoe::moe::route_over_ranks", StepPart::router},
                          {"kokomoe::moe::auxiliary", StepPart::router},
                          {"kokomoe::moe::capacity", StepPart::router},
                          {"kokomoe::moe::forward", StepPart::dispatch},
                          {"kokomoe::moe::backward", StepPart::dispatch},
                          {"kokomoe::moe::dispatch", StepPart::dispatch},
                          {"kokomoe::moe::exchange", StepPart::dispatch},
                          {"kokomoe::moe::combine", StepPart::combine},
                          {"kokomoe::moe::experts", StepPart::experts},
                          {"kokomoe::model::head", StepPart::head},
                          {"kokomoe::nn::cross_entropy", StepPart::head},
                          {"kokomoe::nn::binary_cross_entropy", StepPart::head},
                          {"kokomoe::nn::gelu", StepPart::head},
                          {"kokomoe::nn::sample_classes", StepPart::head},
                          {"kokomoe::nn::adamw", StepPart::optimizer},
                          {"kokomoe::nn::gradient_norm", StepPart::optimizer},
                          {"kokomoe::nn::ordered_norm", StepPart::optimizer},
                          {"kokomoe::parameters", StepPart::optimizer}};

StepProfile*& current() {
  static StepProfile* profile = nullptr;
  return profile;
}

}  // namespace

const char* to_string(StepPart part) {
  constexpr const char* names[step_parts] = {"embedding", "attention", "norms",   "feed_forward",
                                             "router",    "dispatch",  "experts", "combine",
                                             "head",      "optimizer", "other"};
  return names[static_cast<std::size_t>(part)];
}

StepProfile::StepProfile() : before_(Kokkos::Tools::Experimental::get_callbacks()) {
  namespace tools = Kokkos::Tools::Experimental;
  current() = this;
  tools::set_begin_parallel_for_callback(begin_kernel);
  tools::set_begin_parallel_reduce_callback(begin_kernel);
  tools::set_begin_parallel_scan_callback(begin_kernel);
  tools::set_end_parallel_for_callback(end_kernel);
  tools::set_end_parallel_reduce_callback(end_kernel);
  tools::set_end_parallel_scan_callback(end_kernel);
  tools::set_push_region_callback(push_region);
  tools::set_pop_region_callback(pop_region);
  last_ = Clock::now();
}

StepProfile::~StepProfile() {
  Kokkos::Tools::Experimental::set_callbacks(before_);
  current() = nullptr;
}

void StepProfile::begin_kernel(const char* label, std::uint32_t, std::uint64_t* id) {
  *id = 0;
  current()->enter(label);
}
void StepProfile::end_kernel(std::uint64_t) {
  current()->leave();
}
void StepProfile::push_region(const char* label) {
  current()->enter(label);
}
void StepProfile::pop_region() {
  current()->leave();
}

/// The time since the last event was spent in what is innermost.
void StepProfile::charge() {
  const auto now = Clock::now();
  seconds_[static_cast<std::size_t>(stack_.back())] +=
      std::chrono::duration<double>(now - last_).count();
  last_ = now;
}

void StepProfile::enter(const char* label) {
  charge();
  stack_.push_back(part_of(label));
}

void StepProfile::leave() {
  charge();
  if (stack_.size() > 1) stack_.pop_back();
}

StepPart StepProfile::part_of(const std::string& label) const {
  const auto rule = std::find_if(std::begin(rules), std::end(rules),
                                 [&](const Rule& r) { return label.rfind(r.prefix, 0) == 0; });
  const StepPart around = stack_.back();
  if (rule == std::end(rules)) return around;
  // A dense block multiplies with the kernels of the experts, outside of any MoE layer.
  const bool dense = around == StepPart::other || around == StepPart::feed_forward;
  return rule->part == StepPart::experts && dense ? StepPart::feed_forward : rule->part;
}

}  // namespace kokomoe::app
