// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/error.hpp"
#include "kokomoe/data/task_metrics.hpp"
#include "kokomoe/data/text_scores.hpp"
#include "support/catch.hpp"
#include "support/reference_file.hpp"

#include <cmath>

using namespace kokomoe;
using namespace kokomoe::test;
using testing::ReferenceFile;

namespace {

const ReferenceFile& reference() {
  static const ReferenceFile file(KOKOMOE_TEST_FOLDER "/reference/text_scores.kkref");
  return file;
}

std::vector<std::string> lines(const std::string& name) {
  std::vector<std::string> result(1);
  for (const std::int64_t byte : reference().i8(name))
    if (byte == '\n')
      result.emplace_back();
    else
      result.back() += static_cast<char>(byte);
  return result;
}

double number(const std::string& name) {
  return reference().f8(name).at(0);
}

template <class To, class From>
std::vector<To> as(const std::vector<From>& values) {
  return {values.begin(), values.end()};
}

const std::vector<std::string> sets = {"good",         "fair",  "poor",         "equal",
                                       "longer",       "mixed", "mixed_equal",  "nothing",
                                       "no_reference", "short", "nothing_alike"};

}  // namespace

TEST_CASE("words of 13a are sacrebleu's", "[scores]") {
  const auto raw = lines("tokens/lines"), expected = lines("tokens/words");
  REQUIRE(raw.size() == expected.size());
  REQUIRE(raw.size() > 100);
  for (std::size_t i = 0; i < raw.size(); ++i) {
    CAPTURE(raw[i]);
    std::string joined;
    for (const std::string& word : tokenize_13a(raw[i]))
      joined += (joined.empty() ? "" : " ") + word;
    CHECK(joined == expected[i]);
  }
}

TEST_CASE("BLEU and chrF are sacrebleu's", "[scores]") {
  constexpr double tolerance = 1e-9;
  for (const std::string& set : sets) {
    CAPTURE(set);
    const auto hypotheses = lines(set + "/hypotheses"), references = lines(set + "/references");
    REQUIRE(hypotheses.size() == static_cast<std::size_t>(reference().i8(set + "/lines").at(0)));
    const BleuScore score = bleu(hypotheses, references);
    CHECK(std::abs(score.score - number(set + "/bleu")) < tolerance);
    CHECK(std::abs(score.brevity_penalty - number(set + "/brevity_penalty")) < tolerance);
    const auto precision = reference().f8(set + "/precisions");
    const auto matches = reference().i8(set + "/counts"), ngrams = reference().i8(set + "/totals");
    for (std::size_t n = 0; n < BleuScore::order; ++n) {
      CAPTURE(n);
      CHECK(score.matches[n] == matches[n]);
      CHECK(score.ngrams[n] == ngrams[n]);
      CHECK(std::abs(score.precision[n] - precision[n]) < tolerance);
    }
    const BleuOptions tokenised{BleuTokenizer::none, BleuSmoothing::none};
    CHECK(std::abs(bleu(hypotheses, references, tokenised).score - number(set + "/bleu_none")) <
          tolerance);
    CHECK(std::abs(chrf(hypotheses, references) - number(set + "/chrf")) < tolerance);
  }
}

TEST_CASE("scores say what they are, and refuse what does not pair", "[scores]") {
  CHECK(bleu_signature() == "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp");
  CHECK(bleu_signature({BleuTokenizer::none, BleuSmoothing::none}) ==
        "nrefs:1|case:mixed|eff:no|tok:none|smooth:none");
  CHECK(chrf_signature() == "nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no");
  CHECK(message_of<InputError>([] {
          bleu({"a"}, {"a", "b"});
        }) == "BLEU: 1 hypotheses and 2 references");
  CHECK_THROWS_AS(chrf({}, {"a"}), InputError);
  CHECK(bleu({}, {}).score == 0);
  CHECK(chrf({}, {}) == 0);
}

TEST_CASE("bytes that are not UTF-8 are characters of their own", "[scores]") {
  CHECK(chrf({"a\xff\xfe"}, {"a\xff\xfe"}) == 100);
  CHECK(chrf({"\xff"}, {"\xfe"}) == 0);
  CHECK(chrf({"\xc3"}, {"\xc3\xa4"}) == 0);  // cut off within a character
  CHECK(tokenize_13a("\xe3\x80").size() == 1);
}

TEST_CASE("task metrics are scikit-learn's and scipy's", "[scores]") {
  constexpr double tolerance = 1e-12;
  for (int i = 0; i < 7; ++i) {
    const std::string at = "metrics/" + std::to_string(i) + "/";
    CAPTURE(at);
    const auto labels = as<int>(reference().i8(at + "labels"));
    const auto predicted = as<int>(reference().i8(at + "predicted"));
    CHECK(std::abs(accuracy(predicted, labels) - number(at + "accuracy")) < tolerance);
    CHECK(std::abs(f1_score(predicted, labels) - number(at + "f1")) < tolerance);
    CHECK(std::abs(matthews_correlation(predicted, labels) - number(at + "matthews")) < tolerance);
    const auto x = reference().f8(at + "x"), y = reference().f8(at + "y");
    CHECK(std::abs(pearson_correlation(x, y) - number(at + "pearson")) < tolerance);
    CHECK(std::abs(spearman_correlation(x, y) - number(at + "spearman")) < tolerance);
  }
  CHECK(pearson_correlation({1, 1}, {2, 3}) == 0);
  const std::vector<double> constant(10, 0.1), rising{1, 2, 3, 4, 5, 6, 7, 8, 9, 11};
  CHECK(pearson_correlation(constant, constant) == 0);
  CHECK(pearson_correlation(constant, rising) == 0);
  CHECK(spearman_correlation(rising, constant) == 0);
  std::vector<double> large = rising;
  for (double& x : large) x *= 1e307;
  CHECK(std::abs(pearson_correlation(large, rising) - 1) < tolerance);
  std::vector<double> broken = rising;
  broken[3] = std::nan("");
  CHECK(message_of<Error>([&] { spearman_correlation(broken, rising); }) ==
        "Spearman's correlation: number 3 of the predictions is not finite");
  CHECK(message_of<Error>([&] { pearson_correlation(rising, broken); }) ==
        "Pearson's correlation: number 3 of the labels is not finite");
  CHECK(message_of<Error>([] { accuracy({1}, {}); }) == "accuracy: 1 predictions and 0 labels");
}
