// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/parallel/step_context.hpp"
#include "support/host_arrays.hpp"

#include <algorithm>
#include <cstdint>
#include <vector>

namespace kokomoe::test {

/// Packed tokens on the device, arenas and a StepContext over them: what a layer is told.
class PackedStep {
 public:
  /// One sequence for each length; ids and targets below `vocabulary` (0 = none). Sequence b has
  /// the global index 7 b + 3, so that it is not its place.
  explicit PackedStep(const std::vector<int>& lengths, int vocabulary = 0, std::uint64_t seed = 1) {
    std::vector<int> ids, targets, offsets{0}, position;
    std::vector<std::uint32_t> index;
    Draw draw(seed);
    const auto any = [&]() {
      const double u = 0.5 * (draw() + 1);
      return std::min(vocabulary - 1, static_cast<int>(u * vocabulary));
    };
    for (std::size_t b = 0; b < lengths.size(); ++b) {
      for (int i = 0; i < lengths[b]; ++i) {
        position.push_back(i);
        index.push_back(static_cast<std::uint32_t>(7 * b + 3));
        if (vocabulary > 0) ids.push_back(any());
        if (vocabulary > 0) targets.push_back(any());
      }
      offsets.push_back(static_cast<int>(position.size()));
    }
    set(ids, targets, offsets, index, position);
  }

  PackedStep(const std::vector<int>& ids, const std::vector<int>& targets,
             const std::vector<int>& offsets, const std::vector<std::uint32_t>& index,
             const std::vector<int>& position) {
    set(ids, targets, offsets, index, position);
  }

  PackedStep(const PackedStep&) = delete;
  PackedStep& operator=(const PackedStep&) = delete;

  std::size_t tokens() const { return static_cast<std::size_t>(ctx.tokens.tokens); }
  /// Empties the arenas: before every forward.
  void reset() {
    saved.reset();
    scratch.reset();
  }

  Communicator alone;
  Arena saved{"kokomoe::test::saved"}, scratch{"kokomoe::test::scratch"};
  StepContext ctx;

 private:
  void set(const std::vector<int>& ids, const std::vector<int>& targets,
           const std::vector<int>& offsets, const std::vector<std::uint32_t>& index,
           const std::vector<int>& position) {
    ctx.communicator = &alone;
    ctx.saved = &saved;
    ctx.scratch = &scratch;
    ctx.seed = 4711;
    ctx.step = 3;
    PackedTokens& tokens = ctx.tokens;
    tokens.tokens = offsets.back();
    tokens.sequences = static_cast<int>(offsets.size()) - 1;
    for (std::size_t b = 0; b + 1 < offsets.size(); ++b)
      tokens.max_length = std::max(tokens.max_length, offsets[b + 1] - offsets[b]);
    if (!position.empty())
      tokens.max_length =
          std::max(tokens.max_length, *std::max_element(position.begin(), position.end()) + 1);
    tokens.ids = device_vector(ids);
    tokens.targets = device_vector(targets);
    tokens.sequence_offsets = device_vector(offsets);
    tokens.sequence_index = device_vector(index);
    tokens.position = device_vector(position);
    ctx.update_tokens = static_cast<double>(tokens.tokens);
    const auto scored =
        std::count_if(targets.begin(), targets.end(), [](int target) { return target >= 0; });
    ctx.loss_scale = 1.0 / static_cast<double>(std::max<std::ptrdiff_t>(1, scored));
  }
};

}  // namespace kokomoe::test
