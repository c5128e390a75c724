// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "command.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/core/gemm_rate.hpp"
#include "kokomoe/parallel/agree.hpp"
#include "kokomoe/train/progress.hpp"
#include "kokomoe/train/rehearsal.hpp"
#include "kokomoe/train/task.hpp"

#include <algorithm>
#include <cstdio>
#include <limits>
#include <memory>
#include <string>
#include <vector>

namespace kokomoe::app {

namespace {

struct PlanOptions {
  std::string deck, json;
  std::vector<std::string> overrides;
  int ranks = 0;      // 0 = those of this process' job
  double length = 0;  // of a sequence; 0 = as the deck says, or the most that it allows
  double gemm_gflops = 0, bandwidth_gbs = 25, alpha_us = 2;
};

/// Everything that is printed, in one place for table and JSON.
struct Planned {
  PlanOptions options;
  std::string task;
  MoeConfig moe;
  StepPlan step;
  MachineRates rates;
  bool measured = false;  ///< the GEMM rate
  StepSeconds seconds;
};

/// The mean over this job's ranks, which measure at once, as they would train.
double gemm_rate_of_rank(bool double_precision, const Communicator& communicator) {
  const ExecutionSpace space;
  double rate =
      double_precision ? measure_gemm_rate<double>(space) : measure_gemm_rate<float>(space);
  communicator.all_reduce_sum(&rate, 1);
  return rate / communicator.size();
}

std::string percent(double part, double whole) {
  char text[16];
  std::snprintf(text, sizeof text, "%.1f %%", whole > 0 ? 100 * part / whole : 0);
  return text;
}

void print_parts(std::FILE* to, const Planned& plan) {
  const ModelCount& model = plan.step.model;
  const PartCount total = model.total();
  const auto row = [&](const char* name, const PartCount& part) {
    std::fprintf(to, "  %-16s %12s %12s %14s %9s\n", name, human_count(part.parameters).c_str(),
                 human_count(part.active).c_str(), human_count(part.forward_flops).c_str(),
                 percent(part.forward_flops, total.forward_flops).c_str());
  };
  std::fprintf(to, "%-18s %12s %12s %14s %9s\n", "of a token", "parameters", "active",
               "forward FLOPs", "share");
  for (std::size_t i = 0; i < model_parts; ++i) {
    const auto which = static_cast<ModelPart>(i);
    const PartCount& part = model.part(which);
    if (part.parameters > 0 || part.forward_flops > 0) row(to_string(which), part);
  }
  row("all", total);
  std::fprintf(to, "FLOPs of a token: %s forward, %s forward and backward",
               human_count(total.forward_flops).c_str(), human_count(model.flops()).c_str());
  if (model.rows > 0) std::fprintf(to, "; %.3g expert(s) run in an MoE layer", model.rows);
  if (model.frozen > 0) std::fprintf(to, "; %s frozen", human_count(model.frozen).c_str());
  std::fprintf(to, "\n\n");
}

void print_memory(std::FILE* to, const Planned& plan) {
  const MemoryPlan& memory = plan.step.memory;
  std::fprintf(to, "%-18s %12s %12s\n", "memory of a rank", "replicated", "its experts");
  const auto row = [&](const char* name, double replicated, double experts) {
    if (replicated + experts > 0)
      std::fprintf(to, "  %-16s %12s %12s\n", name, human_bytes(replicated).c_str(),
                   human_bytes(experts).c_str());
  };
  row("parameters", memory.replicated.values, memory.experts.values);
  row("gradients", memory.replicated.gradients, memory.experts.gradients);
  row("moments", memory.replicated.moments, memory.experts.moments);
  row("exact sums", memory.replicated.exact_sums, memory.experts.exact_sums);
  std::fprintf(to, "  %-16s %12s  for %lld tokens at once\n", "saved",
               human_bytes(memory.saved).c_str(),
               static_cast<long long>(plan.step.micro_batch_tokens));
  std::fprintf(to, "  %-16s %12s\n", "scratch", human_bytes(memory.scratch).c_str());
  if (memory.tables > 0)
    std::fprintf(to, "  %-16s %12s\n", "tables", human_bytes(memory.tables).c_str());
  std::fprintf(to, "  %-16s %12s\n\n", "all", human_bytes(memory.total()).c_str());
}

void print_traffic(std::FILE* to, const TrafficPlan& traffic) {
  const auto row = [&](const char* name, double bytes) {
    if (bytes > 0) std::fprintf(to, "  %-24s %12s\n", name, human_bytes(bytes).c_str());
  };
  if (traffic.exchanged() + traffic.replicated_gradients + traffic.expert_gradients == 0) return;
  std::fprintf(to, "a rank hands over in an update\n");
  row("dispatch", traffic.dispatch);
  row("combine", traffic.combine);
  row("dispatch, backward", traffic.dispatch_backward);
  row("combine, backward", traffic.combine_backward);
  row("all-reduce, replicated", traffic.replicated_gradients);
  row("all-reduce, experts", traffic.expert_gradients);
  std::fprintf(to, "\n");
}

void print_prediction(std::FILE* to, const Planned& plan) {
  const StepSeconds& seconds = plan.seconds;
  std::fprintf(to, "a step of %lld tokens, at %.4g GFLOP/s a rank (%s)",
               static_cast<long long>(plan.step.update_tokens), plan.rates.gemm * 1e-9,
               plan.measured ? "GEMM, measured here just now" : "as given");
  if (plan.step.ranks > 1)
    std::fprintf(to, ", %.4g GB/s, %.3g us a message", plan.options.bandwidth_gbs,
                 plan.options.alpha_us);
  std::fprintf(to, "\n  arithmetic %.4g s", seconds.arithmetic);
  if (plan.step.ranks > 1)
    std::fprintf(to, "  exchange %.4g s  all-reduce %.4g s  together %.4g s", seconds.exchange,
                 seconds.reduction, seconds.total());
  std::fprintf(to, "  %s tok/s\n",
               human_count(static_cast<double>(plan.step.update_tokens) / seconds.total()).c_str());
  std::fprintf(to,
               "  A bound: memory traffic is not in it, nor experts out of balance. Steps of a "
               "run say which share they reach.\n");
}

void print(std::FILE* to, const Planned& plan) {
  const StepPlan& step = plan.step;
  std::fprintf(to, "%s (%s): %s; %s, %d rank(s)", plan.options.deck.c_str(), plan.task.c_str(),
               step.shape.c_str(), step.double_precision ? "double" : "float", step.ranks);
  if (step.model.rows > 0)
    std::fprintf(to, ", %d experts (%s) over %d of them", plan.moe.experts, plan.moe.router.c_str(),
                 step.expert_ranks);
  std::fprintf(to, "\n\n");
  print_parts(to, plan);
  print_memory(to, plan);
  print_traffic(to, plan.step.traffic);
  print_prediction(to, plan);
}

nlohmann::json model_json(const Planned& plan) {
  const ModelCount& model = plan.step.model;
  const PartCount total = model.total();
  nlohmann::json parts = nlohmann::json::array();
  for (std::size_t i = 0; i < model_parts; ++i) {
    const auto which = static_cast<ModelPart>(i);
    const PartCount& part = model.part(which);
    parts.push_back({{"part", to_string(which)},
                     {"parameters", static_cast<std::int64_t>(part.parameters)},
                     {"active_parameters", part.active},
                     {"forward_flops", part.forward_flops}});
  }
  return {{"parameters", static_cast<std::int64_t>(total.parameters)},
          {"active_parameters", total.active},
          {"frozen_parameters", static_cast<std::int64_t>(model.frozen)},
          {"experts_of_token", model.rows},
          {"forward_flops", total.forward_flops},
          {"flops", model.flops()},
          {"parts", parts}};
}

nlohmann::json tensors_json(const TensorBytes& bytes) {
  return {{"parameters", bytes.values},
          {"gradients", bytes.gradients},
          {"moments", bytes.moments},
          {"exact_sums", bytes.exact_sums}};
}

nlohmann::json to_json(const Planned& plan) {
  const StepPlan& step = plan.step;
  const MemoryPlan& memory = step.memory;
  const TrafficPlan& traffic = step.traffic;
  return {{"deck", plan.options.deck},
          {"task", plan.task},
          {"ranks", step.ranks},
          {"expert_ranks", step.expert_ranks},
          {"model", model_json(plan)},
          {"tokens",
           {{"update", step.update_tokens},
            {"rank", step.rank_tokens},
            {"micro_batch", step.micro_batch_tokens},
            {"sequence", step.length}}},
          {"memory",
           {{"replicated", tensors_json(memory.replicated)},
            {"experts", tensors_json(memory.experts)},
            {"saved", memory.saved},
            {"scratch", memory.scratch},
            {"tables", memory.tables},
            {"total", memory.total()}}},
          {"bytes",
           {{"dispatch", traffic.dispatch},
            {"combine", traffic.combine},
            {"dispatch_backward", traffic.dispatch_backward},
            {"combine_backward", traffic.combine_backward},
            {"all_reduce_replicated", traffic.replicated_gradients},
            {"all_reduce_experts", traffic.expert_gradients},
            {"messages", traffic.messages}}},
          {"machine",
           {{"gemm_gflops", plan.rates.gemm * 1e-9},
            {"gemm_measured", plan.measured},
            {"bandwidth_gbs", plan.options.bandwidth_gbs},
            {"alpha_us", plan.options.alpha_us}}},
          {"seconds",
           {{"arithmetic", plan.seconds.arithmetic},
            {"exchange", plan.seconds.exchange},
            {"all_reduce", plan.seconds.reduction},
            {"step", plan.seconds.total()}}}};
}

int plan(const PlanOptions& options, const Communicator& communicator) {
  require_json(options.json);
  std::vector<std::string> notes;
  const Deck deck = load_deck(options.deck, options.overrides);
  const TaskInfo& info = task_of(deck);
  const std::unique_ptr<Task> task = info.read(deck, notes);
  note_idle_settings(deck, notes);
  run_on_root(communicator, [&] { task->rehearse(deck, DataUse::training); });
  Planned planned;
  planned.options = options;
  planned.task = info.name;
  planned.moe = task->moe();
  planned.step = task->plan(options.ranks > 0 ? options.ranks : communicator.size(), options.length,
                            communicator, notes);
  if (planned.step.length < options.length)
    notes.push_back("--length is more than the deck allows: " +
                    std::to_string(static_cast<int>(planned.step.length)) + " is taken");
  planned.measured = options.gemm_gflops == 0;
  planned.rates = {planned.measured ? gemm_rate_of_rank(planned.step.double_precision, communicator)
                                    : options.gemm_gflops * 1e9,
                   options.bandwidth_gbs * 1e9, options.alpha_us * 1e-6};
  planned.seconds = predict_step(planned.step, planned.rates);
  if (!communicator.is_root()) return done;
  std::FILE* const to = options.json == "-" ? stderr : stdout;
  for (const std::string& note : notes) std::fprintf(to, "note: %s\n", note.c_str());
  print(to, planned);
  std::fflush(to);
  write_json(options.json, to_json(planned));
  return done;
}

}  // namespace

void add_plan(CLI::App& program, Action& action) {
  auto options = std::make_shared<PlanOptions>();
  CLI::App* command = program.add_subcommand(
      "plan",
      "what a deck's model is and asks of each rank: parameters, FLOPs, memory, bytes, time");
  command->add_option("-i,--input", options->deck, "deck (TOML)")->required();
  command->add_option("--ranks", options->ranks, "as if on so many; default: those it is run on")
      ->check(CLI::Range(1, std::numeric_limits<int>::max()));
  command
      ->add_option("--length", options->length,
                   "mean tokens of a sequence of sentences and translation, which only their text "
                   "knows;\ndefault: the most that the deck allows")
      ->check(CLI::Range(1.0, std::numeric_limits<double>::max()));
  command
      ->add_option("--gemm-gflops", options->gemm_gflops,
                   "GEMM rate of a rank; default: measured here, in a tenth of a second")
      ->check(positive_number());
  command->add_option("--bandwidth", options->bandwidth_gbs, "GB/s of a rank to others; default 25")
      ->check(positive_number());
  command->add_option("--alpha", options->alpha_us, "us of a message; default 2")
      ->check(CLI::NonNegativeNumber);
  command->add_option("--json", options->json, "write to a file, or - for standard output");
  command->add_option("overrides", options->overrides, "section/key=value ...");
  command->footer(
      "Example: kokomoe plan -i inputs/lm/kjv.toml --ranks 64 parallel/expert_ranks=8 "
      "--gemm-gflops 2e4\n"
      "Neither parameters nor activations are allocated, and no text is read.");
  command->callback([options, &action] {
    action = [options](const Communicator& communicator) { return plan(*options, communicator); };
  });
}

}  // namespace kokomoe::app
