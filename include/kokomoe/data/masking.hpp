// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/data/batches.hpp"
#include "kokomoe/data/tokenizer.hpp"

#include <cstdint>
#include <utility>
#include <vector>

namespace kokomoe {

/// How many ids encoders know beside a tokenizer's own.
constexpr int special_tokens = 2;

/// These ids.
struct SpecialTokens {
  explicit SpecialTokens(const Tokenizer& tokenizer)
      : first(tokenizer.beginning_of_text()),
        separator(tokenizer.vocabulary()),
        mask(tokenizer.vocabulary() + 1),
        vocabulary(tokenizer.vocabulary() + special_tokens) {}

  int first;       ///< begins a sequence: the tokenizer's beginning of text
  int separator;   ///< ends a sentence
  int mask;        ///< stands where a token is hidden
  int vocabulary;  ///< ids are [0, vocabulary)
};

/// A batch with some of its tokens hidden. Reused from step to step.
struct MaskedBatch {
  std::vector<int> ids;                              ///< (T) the mask's id where a token is hidden
  std::vector<int> targets;                          ///< (T) what is hidden, -1 elsewhere
  std::vector<int> rows;                             ///< (M) hidden tokens, ascending
  std::vector<std::pair<std::uint64_t, int>> draws;  ///< working space
};

/// Which tokens a masked language model has to guess: of the n tokens of a sequence that may be
/// hidden, round(rate n), at least one, drawn without replacement, anew in every step. All of them
/// become the mask (Clark et al. 2020, arXiv 2003.10555, section 2).
class TokenMasking {
 public:
  /// `kept`: ids that are never hidden; the mask's own is another. InputError for a rate outside
  /// (0, 1] or a negative id.
  TokenMasking(double rate, int mask_id, std::vector<int> kept, std::uint64_t seed);

  /// A token's draw is a function of (seed, step, sequence index, position), so a sequence hides
  /// the same tokens however a batch is cut over ranks and micro-batches.
  void hide(std::int64_t step, const HostBatch& batch, MaskedBatch& out) const;

  /// Tokens hidden of `tokens` that may be; 0 of none.
  std::int64_t count(std::int64_t tokens) const;
  bool may_hide(int id) const;

 private:
  double rate_;
  int mask_id_;
  std::vector<int> kept_;  ///< sorted, with the mask's id
  std::uint64_t seed_;
};

/// Device buffers of a masked batch, allocated for the largest one seen and then reused.
struct DeviceMaskedBatch {
  Vector<int> ids, targets, rows;
};

/// A masked batch as kernels see it.
struct MaskedTokens {
  Vector<const int> ids;      ///< (T)
  Vector<const int> targets;  ///< (T)
  Vector<const int> rows;     ///< (M)
};

/// See upload: `host` and `device` must outlive the result.
MaskedTokens to_device(const ExecutionSpace& space, const MaskedBatch& host,
                       DeviceMaskedBatch& device);

}  // namespace kokomoe
