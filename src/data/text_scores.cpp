// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/data/text_scores.hpp"

#include "data/unicode.hpp"
#include "kokomoe/core/error.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <unordered_map>

namespace kokomoe {

namespace {

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

bool is_dot_or_comma(char c) {
  return c == '.' || c == ',';
}

/// ASCII punctuation but for ' , - and the dot.
bool stands_alone(char c) {
  return (c > ' ' && c <= '&') || (c >= '(' && c <= '+') || c == '/' || (c >= ':' && c <= '@') ||
         (c >= '[' && c <= '`') || (c >= '{' && c <= '~');
}

void replace_all(std::string& text, std::string_view what, std::string_view by) {
  for (std::size_t at = 0; (at = text.find(what, at)) != std::string::npos; at += by.size())
    text.replace(at, what.size(), by);
}

/// Where `first` and `second` follow each other, `left` and `right` spaces around and between: one
/// pass from the left, no character in two pairs.
template <class First, class Second, class Write>
std::string each_pair(const std::string& text, const First& first, const Second& second,
                      const Write& write) {
  std::string result;
  std::size_t i = 0;
  while (i < text.size()) {
    if (i + 1 < text.size() && first(text[i]) && second(text[i + 1])) {
      write(result, text[i], text[i + 1]);
      i += 2;
    } else {
      result += text[i++];
    }
  }
  return result;
}

std::vector<std::string> strings(const std::vector<std::string_view>& views) {
  return {views.begin(), views.end()};
}

std::vector<std::string> words_of(const std::string& line, BleuTokenizer tokenizer) {
  if (tokenizer == BleuTokenizer::mteval_13a) return tokenize_13a(line);
  return strings(detail::split_at_space(line));
}

void require_pairs(const char* where, const std::vector<std::string>& hypotheses,
                   const std::vector<std::string>& references) {
  if (hypotheses.size() == references.size()) return;
  throw InputError(std::string(where) + ": " + std::to_string(hypotheses.size()) +
                   " hypotheses and " + std::to_string(references.size()) + " references");
}

struct Overlap {
  std::int64_t matches = 0, hypothesis = 0, reference = 0;
};

/// N-grams of two sequences: how many each has, and how many of the first are in the second, each
/// of the second's once.
template <class Item>
Overlap overlap(const std::vector<Item>& hypothesis, const std::vector<Item>& reference, int n) {
  using Gram = std::basic_string<Item>;
  const auto count = [&](const std::vector<Item>& items) {
    std::map<Gram, std::int64_t> counts;
    for (std::size_t i = 0; i + static_cast<std::size_t>(n) <= items.size(); ++i)
      ++counts[Gram(items.data() + i, static_cast<std::size_t>(n))];
    return counts;
  };
  const auto ours = count(hypothesis), theirs = count(reference);
  Overlap result;
  for (const auto& [gram, times] : ours) {
    result.hypothesis += times;
    const auto found = theirs.find(gram);
    if (found != theirs.end()) result.matches += std::min(times, found->second);
  }
  for (const auto& [gram, times] : theirs) result.reference += times;
  return result;
}

/// Words by number, so that n-grams compare quickly.
class Dictionary {
 public:
  std::vector<char32_t> numbers(const std::vector<std::string>& words) {
    std::vector<char32_t> result;
    for (const std::string& word : words)
      result.push_back(
          known_.try_emplace(word, static_cast<char32_t>(known_.size())).first->second);
    return result;
  }

 private:
  std::unordered_map<std::string, char32_t> known_;
};

std::vector<char32_t> characters_of(const std::string& line) {
  std::vector<char32_t> result;
  const std::string_view text(line);
  for (std::size_t i = 0; i < text.size();) {
    const detail::Character c = detail::first_character(text.substr(i));
    if (!detail::is_space(c.code)) result.push_back(c.code);
    i += c.bytes;
  }
  return result;
}

}  // namespace

std::vector<std::string> tokenize_13a(std::string_view line) {
  std::string text(line);
  replace_all(text, "<skipped>", "");
  replace_all(text, "-\n", "");
  replace_all(text, "\n", " ");
  // In this order: "&amp;lt;" becomes "<".
  replace_all(text, "&quot;", "\"");
  replace_all(text, "&amp;", "&");
  replace_all(text, "&lt;", "<");
  replace_all(text, "&gt;", ">");
  std::string apart = " ";
  for (const char c : text) {
    if (stands_alone(c)) {
      apart += ' ';
      apart += c;
      apart += ' ';
    } else {
      apart += c;
    }
  }
  apart += ' ';
  const auto not_digit = [](char c) { return !is_digit(c); };
  apart = each_pair(apart, not_digit, is_dot_or_comma, [](std::string& to, char a, char b) {
    to += {a, ' ', b, ' '};
  });
  apart = each_pair(apart, is_dot_or_comma, not_digit, [](std::string& to, char a, char b) {
    to += {' ', a, ' ', b};
  });
  apart = each_pair(
      apart, is_digit, [](char c) { return c == '-'; },
      [](std::string& to, char a, char b) {
        to += {a, ' ', b, ' '};
      });
  return strings(detail::split_at_space(apart));
}

BleuScore bleu(const std::vector<std::string>& hypotheses,
               const std::vector<std::string>& references, const BleuOptions& options) {
  require_pairs("BLEU", hypotheses, references);
  BleuScore result;
  Dictionary dictionary;
  for (std::size_t i = 0; i < hypotheses.size(); ++i) {
    const auto ours = dictionary.numbers(words_of(hypotheses[i], options.tokenizer));
    const auto theirs = dictionary.numbers(words_of(references[i], options.tokenizer));
    result.hypothesis_words += static_cast<std::int64_t>(ours.size());
    result.reference_words += static_cast<std::int64_t>(theirs.size());
    for (int n = 1; n <= BleuScore::order; ++n) {
      const Overlap both = overlap(ours, theirs, n);
      result.matches[static_cast<std::size_t>(n - 1)] += both.matches;
      result.ngrams[static_cast<std::size_t>(n - 1)] += both.hypothesis;
    }
  }
  const auto ours = static_cast<double>(result.hypothesis_words),
             theirs = static_cast<double>(result.reference_words);
  result.brevity_penalty = ours >= theirs ? 1 : ours > 0 ? std::exp(1 - theirs / ours) : 0;
  if (result.matches[0] == 0) return result;
  double smoothing = 1, logarithms = 0;
  bool zero = false;
  for (std::size_t n = 0; n < BleuScore::order; ++n) {
    const auto all = static_cast<double>(result.ngrams[n]);
    if (result.matches[n] > 0) {
      result.precision[n] = 100 * static_cast<double>(result.matches[n]) / all;
    } else if (all > 0 && options.smoothing == BleuSmoothing::exponential) {
      smoothing *= 2;
      result.precision[n] = 100 / (smoothing * all);
    }
    zero = zero || !(result.precision[n] > 0);
    if (!zero) logarithms += std::log(result.precision[n]);
  }
  if (!zero) result.score = result.brevity_penalty * std::exp(logarithms / BleuScore::order);
  return result;
}

double chrf(const std::vector<std::string>& hypotheses,
            const std::vector<std::string>& references) {
  require_pairs("chrF", hypotheses, references);
  constexpr int order = 6;
  constexpr double beta_squared = 4;
  std::array<Overlap, order> sums{};
  for (std::size_t i = 0; i < hypotheses.size(); ++i) {
    const auto ours = characters_of(hypotheses[i]), theirs = characters_of(references[i]);
    for (int n = 1; n <= order; ++n) {
      const Overlap both = overlap(ours, theirs, n);
      Overlap& sum = sums[static_cast<std::size_t>(n - 1)];
      // A hypothesis' n-grams count where the reference has any of that length.
      if (both.reference > 0) sum.hypothesis += both.hypothesis;
      sum.reference += both.reference;
      sum.matches += both.matches;
    }
  }
  double precision = 0, recall = 0;
  int orders = 0;
  for (const Overlap& sum : sums) {
    if (sum.hypothesis == 0 || sum.reference == 0) continue;
    precision += static_cast<double>(sum.matches) / static_cast<double>(sum.hypothesis);
    recall += static_cast<double>(sum.matches) / static_cast<double>(sum.reference);
    ++orders;
  }
  if (orders == 0 || precision + recall == 0) return 0;
  precision /= orders;
  recall /= orders;
  return 100 * (1 + beta_squared) * precision * recall / (beta_squared * precision + recall);
}

std::string bleu_signature(const BleuOptions& options) {
  const bool cut = options.tokenizer == BleuTokenizer::mteval_13a;
  const bool smooth = options.smoothing == BleuSmoothing::exponential;
  return std::string("nrefs:1|case:mixed|eff:no|tok:") + (cut ? "13a" : "none") +
         "|smooth:" + (smooth ? "exp" : "none");
}

std::string chrf_signature() {
  return "nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no";
}

}  // namespace kokomoe
