// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "io/checkpoint_folders.hpp"
#include "io/manifest.hpp"
#include "kokomoe/io/checkpoint.hpp"
#include "kokomoe/parallel/agree.hpp"

namespace kokomoe {

std::string resolve_checkpoint(const std::string& run_or_step, const Communicator& communicator) {
  std::string folder;
  run_on_root(communicator, [&] { folder = resolve_checkpoint(run_or_step); });
  return communicator.broadcast(folder);
}

CheckpointMeta read_manifest(const std::string& step_folder, const Communicator& communicator) {
  const std::string step = detail::without_slash(step_folder);
  std::string text;
  run_on_root(communicator, [&] {
    detail::with_alternative(step, [&] {
      text = detail::read_manifest_text(step);
      detail::parse_manifest(text, step + "/manifest.json");
    });
  });
  return detail::parse_manifest(communicator.broadcast(text), step + "/manifest.json").meta;
}

}  // namespace kokomoe
