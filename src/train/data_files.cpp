// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/train/data_files.hpp"

#include "data/text_file.hpp"
#include "kokomoe/core/error.hpp"
#include "kokomoe/parallel/agree.hpp"

#include <filesystem>

namespace kokomoe {

namespace {

void require_file(const Deck& deck, const std::string& key, const std::string& path,
                  bool from_checkpoint) {
  try {
    detail::open_text(path);
  } catch (const InputError& error) {
    std::string message = error.what();
    const std::string mark = ": error: ";
    if (const auto at = message.find(mark); at != message.npos)
      message.replace(at, mark.size(), ": ");
    if (from_checkpoint && !deck.overridden(key)) {
      message += "; the path comes from the checkpoint's deck";
      if (std::filesystem::path(path).is_relative())
        message += " and is looked for from the folder that this command runs in";
      message += ": " + key + "=... overrides it";
    }
    deck.refuse(key, message);
  }
}

/// Whether its model fits is asked once it is there: see Task::rehearse.
void require_beginning(const Deck& deck, const std::string& from) {
  std::error_code ignored;
  if (!from.empty() && !std::filesystem::exists(from, ignored))
    deck.refuse("model/from", from + ": run or checkpoint not found");
}

}  // namespace

void require_data_files(const Deck& deck, DataUse use, bool from_checkpoint,
                        const Communicator& communicator) {
  run_on_root(communicator, [&] {
    const auto require_list = [&](const std::string& key) {
      for (const std::string& path : deck.list(key)) require_file(deck, key, path, from_checkpoint);
    };
    const TaskInfo& task = task_of(deck);
    if (use != DataUse::evaluation)
      for (const std::string& key : task.train_keys) require_list(key);
    for (const std::string& key : task.heldout_keys) require_list(key);
    const std::string& model = deck.text("data/tokenizer_model");
    if (use == DataUse::training && deck.text("data/tokenizer") == "sentencepiece" &&
        !model.empty())
      require_file(deck, "data/tokenizer_model", model, from_checkpoint);
    if (use == DataUse::training && deck.known("model/from"))
      require_beginning(deck, deck.text("model/from"));
  });
}

void note_schedule(const TrainConfig& config, std::vector<std::string>& notes) {
  const std::int64_t warmup = config.schedule.warmup;
  if (warmup > 0 && config.steps > 0 && warmup >= config.steps)
    notes.push_back("optimizer/warmup = " + std::to_string(warmup) +
                    " takes all of train/steps = " + std::to_string(config.steps) +
                    ": the learning rate only rises");
}

}  // namespace kokomoe
