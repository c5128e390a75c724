// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace kokomoe {

/// How a line is cut into BLEU's words.
enum class BleuTokenizer {
  mteval_13a,  ///< as WMT's mteval-v13a.pl does, sacrebleu's default
  none         ///< at white space alone: for text that is tokenised already
};

/// A precision of zero matches among some n-grams.
enum class BleuSmoothing {
  exponential,  ///< counts as 1/2, 1/4, ... of a match, one after the other; sacrebleu's default
  none          ///< makes the score 0, as multi-bleu.perl does
};

struct BleuOptions {
  BleuTokenizer tokenizer = BleuTokenizer::mteval_13a;
  BleuSmoothing smoothing = BleuSmoothing::exponential;
};

struct BleuScore {
  static constexpr int order = 4;
  double score = 0;                       ///< 0 to 100
  std::array<double, order> precision{};  ///< 0 to 100, smoothed
  std::array<std::int64_t, order> matches{}, ngrams{};
  double brevity_penalty = 0;
  std::int64_t hypothesis_words = 0, reference_words = 0;
};

/// Corpus BLEU of lines with one reference each (Papineni et al. 2002, as sacrebleu 2 computes it;
/// Post 2018). Throws InputError when there are not equally many.
BleuScore bleu(const std::vector<std::string>& hypotheses,
               const std::vector<std::string>& references, const BleuOptions& options = {});

/// Corpus chrF2, 0 to 100: F-score with beta 2 of n-grams of up to 6 characters, white space left
/// out (Popovic 2015, as sacrebleu 2 computes it). Throws InputError as `bleu` does.
double chrf(const std::vector<std::string>& hypotheses, const std::vector<std::string>& references);

/// What was computed, in sacrebleu's form: "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp".
std::string bleu_signature(const BleuOptions& options = {});
std::string chrf_signature();

/// A line's words, as mteval-v13a.pl cuts them.
std::vector<std::string> tokenize_13a(std::string_view line);

}  // namespace kokomoe
