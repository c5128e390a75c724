// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/model/encoder_decoder.hpp"

#include <vector>

namespace kokomoe {

struct SearchOptions {
  int beam = 4;                 ///< hypotheses kept of each sentence; 1 = greedy
  double length_penalty = 0.6;  ///< a: scores are log-probabilities / ((5 + n) / 6)^a
  int extra_length = 50;        ///< tokens that a translation may have more than its source
};

struct Hypothesis {
  std::vector<int> tokens;     ///< without begin and end
  double log_probability = 0;  ///< of the tokens and, when it is finished, the end
  double score = 0;            ///< what hypotheses are compared by, n being the tokens with the end
  bool finished = true;        ///< false: it met the limit of its length without an end
};

/// Beam search with a cache. `sources`: token ids without their end, one batch; `end` begins and
/// ends each side (see HostPairBatch). For each source its hypotheses, the best first: at least
/// one, at most `beam`.
///
/// A sentence begins with one live hypothesis. In each step every continuation of every live one is
/// ranked by log-probability, equal ones by hypothesis, then by token. Of the `beam` first those
/// that end are finished; the `beam` first of those that do not end live on. A sentence is done
/// when `beam` hypotheses are finished, or when those of the source's length + extra_length tokens,
/// or of max_length - 1, which is what the model takes with an end, have had their chance to end;
/// live ones are given, unfinished, when none has finished. The length penalty is that of Wu et al.
/// (2016, eq. 14).
///
/// `ctx`: a context in evaluation mode; its tokens are not looked at, and both arenas are reset.
/// Sentences do not see each other: results do not depend on the batch. Throws InputError naming a
/// source that is empty or longer than the model's max_length. On this rank alone.
template <class T>
std::vector<std::vector<Hypothesis>> beam_search(const StepContext& ctx,
                                                 const EncoderDecoder<T>& model,
                                                 const std::vector<std::vector<int>>& sources,
                                                 int end, const SearchOptions& options);

}  // namespace kokomoe
