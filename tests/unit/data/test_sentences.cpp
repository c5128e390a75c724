// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/config.hpp"
#include "kokomoe/core/error.hpp"
#include "kokomoe/data/sentences.hpp"
#include "support/catch.hpp"
#include "support/host_arrays.hpp"
#include "support/temporary_folder.hpp"

#include <algorithm>
#include <set>
#include <string>
#include <vector>

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

const SentenceFormat& glue(const std::string& name) {
  for (const SentenceFormat& format : glue_formats())
    if (format.name == name) return format;
  throw InputError("no format " + name);
}

SentenceTable read(const std::string& format, const std::string& text) {
  SentenceTable table;
  read_sentences(text, "t.tsv", glue(format), true, table);
  return table;
}

std::string refusal(const std::string& format, const std::string& text) {
  return message_of<InputError>([&] { read(format, text); });
}

std::shared_ptr<const Tokenizer> bytes() {
  return make_tokenizer_from("bytes", "");
}

/// 23 pairs of sentences of many lengths, with numbers.
SentenceCorpus some_pairs() {
  SentenceTable table;
  for (int i = 0; i < 23; ++i) {
    table.first.push_back(std::string(static_cast<std::size_t>(1 + i * 7 % 13), 'a'));
    table.second.push_back(std::string(static_cast<std::size_t>(1 + i * 5 % 11), 'b'));
    table.numbers.push_back(i / 4.0);
  }
  return SentenceCorpus(table, *bytes());
}

const SpecialTokens special(*bytes());

/// Devlin et al.'s rule, token by token.
std::pair<std::size_t, std::size_t> truncated(std::size_t a, std::size_t b, std::size_t room) {
  while (a + b > room) --(a > b ? a : b);
  return {a, b};
}

}  // namespace

TEST_CASE("tables in GLUE's formats", "[sentences]") {
  const SentenceTable cola = read("cola", "gj04\t1\t\tHe said \"so.\ngj04\t0\t*\tSo he \"said\n");
  CHECK(cola.first == std::vector<std::string>{"He said \"so.", "So he \"said"});
  CHECK(cola.labels == std::vector<int>{1, 0});
  CHECK(cola.second.empty());
  const SentenceTable sst = read("sst2", "sentence\tlabel\r\ngood \t1\r\nbad\t0");
  CHECK(sst.first == std::vector<std::string>{"good ", "bad"});
  CHECK(sst.labels == std::vector<int>{1, 0});
  const SentenceTable mrpc =
      read("mrpc", "\xEF\xBB\xBFQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\ta b\tc\n");
  CHECK(mrpc.first.at(0) == "a b");
  CHECK(mrpc.second.at(0) == "c");
  CHECK(mrpc.labels.at(0) == 1);
  const SentenceTable stsb = read("stsb",
                                  "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\t"
                                  "sentence1\tsentence2\tscore\n0\tx\tx\t-\t-\t-\t-\ta\tb\t3.25\n");
  CHECK(stsb.numbers == std::vector<double>{3.25});
  CHECK(stsb.labels.empty());
  CHECK(stsb.second.at(0) == "b");
  const SentenceTable mnli = read(
      "mnli", "index\tsentence1\tsentence2\tlabel1\tgold_label\n0\ta\tb\tneutral\tentailment\n");
  CHECK(mnli.labels == std::vector<int>{1});
  const SentenceTable rte = read(
      "rte", "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tentailment\n1\tc\td\tnot_entailment");
  CHECK(rte.labels == std::vector<int>{1, 0});
  // Rows of QQP are known to be broken, or to lack a question: they are left out and counted, those
  // of others refused.
  const std::string qqp = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n";
  const SentenceTable questions = read("qqp", qqp +
                                                  "1\t2\t3\ta\tb\t1\n4\t5\t6\n7\t8\t9\tc\td\t0\n"
                                                  "1\t2\t3\ta\t\t0\n1\t2\t3\t \tb\t0\n");
  CHECK(questions.labels == std::vector<int>{1, 0});
  CHECK(questions.first == std::vector<std::string>{"a", "c"});
  CHECK(questions.second == std::vector<std::string>{"b", "d"});
  CHECK(questions.left_out == 3);
}

TEST_CASE("tables without labels, as GLUE's test files are", "[sentences]") {
  const auto read_bare = [](const std::string& format, const std::string& text) {
    SentenceTable table;
    read_sentences(text, "t.tsv", without_labels(glue(format)), true, table);
    return table;
  };
  // CoLA's has a header that its train.tsv lacks.
  const SentenceTable cola = read_bare("cola", "index\tsentence\n0\tBill slept.\n1\tslept Bill.\n");
  CHECK(cola.first == std::vector<std::string>{"Bill slept.", "slept Bill."});
  const SentenceTable mnli = read_bare("mnli", "index\tsentence1\tsentence2\n0\ta\tb\n");
  CHECK(mnli.second == std::vector<std::string>{"b"});
  const SentenceTable stsb = read_bare("stsb", "index\tsentence1\tsentence2\tscore\n0\ta\tb\tx\n");
  CHECK(stsb.first.size() == 1);
  for (const SentenceTable& table : {cola, mnli, stsb}) {
    CHECK(table.labels.empty());
    CHECK(table.numbers.empty());
  }
  // A row that is left out would shift the answers of all that follow.
  CHECK(message_of<InputError>([&] { read_bare("qqp", "id\tquestion1\tquestion2\n0\ta\n"); }) ==
        "t.tsv:2: error: 2 column(s), 3 are wanted");
  const SentenceTable questions =
      read_bare("qqp", "id\tquestion1\tquestion2\n0\ta\t\n1\t \tb\n2\tc\td\n");
  CHECK(questions.first == std::vector<std::string>{"a", "", "c"});
  CHECK(questions.second == std::vector<std::string>{"", "b", "d"});
  CHECK(questions.left_out == 0);
}

TEST_CASE("what is no table is refused by line", "[sentences]") {
  CHECK(refusal("cola", "a\t1\t\tx\nb\t2\t\ty\n") ==
        "t.tsv:2: error: label \"2\" is none of \"0\", \"1\"");
  CHECK(refusal("cola", "a\t1\t\tx\n\n") == "t.tsv:2: error: 1 column(s), 4 are wanted");
  CHECK(refusal("cola", "a\t1\t\t \n") == "t.tsv:1: error: column 4 has no sentence");
  CHECK(refusal("rte", "sentence1\tsentence2\tlabel\na\t\tentailment\n") ==
        "t.tsv:2: error: column 2 has no sentence");
  CHECK(refusal("sst2", "text\tlabel\n") ==
        "t.tsv:1: error: no column \"sentence\": there are \"text\", \"label\"");
  CHECK(refusal("sst2", "") == "t.tsv:0: error: no line with the columns' names");
  CHECK(refusal("stsb", "sentence1\tsentence2\tscore\na\tb\t3.x\n") ==
        "t.tsv:2: error: label \"3.x\" is not a number");
  CHECK(refusal("stsb", "sentence1\tsentence2\tscore\na\tb\tinf\n") ==
        "t.tsv:2: error: label \"inf\" is not a number");
  CHECK(refusal("cola", "a\t1\t\tx\na\t1\t\t\xFF\n").starts_with("t.tsv:2: error: not UTF-8"));
  SentenceTable table;
  const SentenceFormat format{"own", false, "one", "", "2", {"0", "1"}};
  CHECK(message_of<InputError>([&] { read_sentences("a\t1\n", "t", format, false, table); }) ==
        "t: error: without a header columns are called 1, 2, ..., not \"one\"");
}

#ifdef KOKOMOE_HAVE_SENTENCEPIECE
TEST_CASE("SentencePiece learns from the sentences of tables alone", "[sentences]") {
  const TemporaryFolder folder;
  const char* const words[] = {"in", "the", "beginning", "was", "a", "small", "model"};
  std::string table = "index\tsentence1\tsentence2\tscore\n", first, second;
  for (std::size_t i = 0; i < 400; ++i) {
    const std::string one = std::string(words[i * i % 7]) + " " + words[i / 3 % 7];
    const std::string two = std::string(words[i % 5]) + " " + words[i / 7 % 7];
    table += std::to_string(i) + "\t" + one + "\t" + two + "\t" + std::to_string(i / 9.0) + "\n";
    first += one + "\n";
    second += two + "\n";
  }
  write_text(folder / "a.tsv", table);
  write_text(folder / "a.txt", first + second);
  TokenizerOptions options;
  options.kind = "sentencepiece";
  options.vocabulary = 275;
  options.training_files = {folder / "a.txt"};
  const auto expected = make_tokenizer(options, Communicator());
  options.training_files = {folder / "a.tsv"};
  const auto tokenizer = make_sentence_tokenizer(options, glue("stsb"), Communicator());
  CHECK(tokenizer->identity() == expected->identity());
  // The whole file has more characters than that.
  CHECK_THAT(message_of<InputError>([&] { make_tokenizer(options, Communicator()); }),
             contains("a.tsv"));

  options.vocabulary = 100000;
  CHECK_THAT(message_of<InputError>(
                 [&] { make_sentence_tokenizer(options, glue("stsb"), Communicator()); }),
             contains("a vocabulary of 100000 on the sentences of " + (folder / "a.tsv") + ": "));
  CHECK_THAT(message_of<InputError>(
                 [&] { make_sentence_tokenizer(options, glue("sst2"), Communicator()); }),
             contains("a.tsv:1: error: no column \"sentence\""));
}
#endif

TEST_CASE("tables without a row are refused by name", "[sentences]") {
  const TemporaryFolder folder;
  const std::string header = "question1\tquestion2\tis_duplicate\n";
  write_text(folder / "a.tsv", header);
  write_text(folder / "b.tsv", header + "a\t\t1\n");
  const auto message = [&](const std::vector<std::string>& files) {
    return message_of<InputError>(
        [&] { SentenceCorpus::open(files, glue("qqp"), *bytes(), Communicator()); });
  };
  CHECK(message({folder / "a.tsv"}) == (folder / "a.tsv") + ": error: no rows of sentences");
  CHECK(message({folder / "a.tsv", folder / "b.tsv"}) ==
        (folder / "a.tsv") + ", " + (folder / "b.tsv") +
            ": error: no rows of sentences; 1 incomplete row(s) left out");
}

TEST_CASE("pairs are cut as token by token", "[sentences]") {
  for (std::size_t a = 0; a < 12; ++a)
    for (std::size_t b = 0; b < 12; ++b)
      for (std::size_t room = 0; room < 26; ++room) {
        std::size_t x = a, y = b;
        truncate_pair(x, y, room);
        INFO(a << " and " << b << " into " << room);
        CHECK(std::pair(x, y) == truncated(a, b, room));
      }
}

TEST_CASE("batches of sentences, cut over ranks and micro-batches", "[sentences]") {
  const SentenceCorpus corpus = some_pairs();
  constexpr int length = 16, update = 7;
  const SentenceBatches whole(corpus, special, 5, update, length);
  REQUIRE(whole.updates_of_epoch() == 3);
  HostSentenceBatch all, part;
  for (const auto& [micro_batches, ranks] : {std::pair(1, 1), {1, 3}, {2, 2}, {7, 1}, {2, 5}}) {
    const SentenceBatches cut(corpus, special, 5, update, length, micro_batches);
    for (std::int64_t step = 0; step < 7; ++step) {
      whole.fill(step, 0, 0, 1, all);
      HostSentenceBatch joined;
      std::int64_t micro_tokens = 0;
      for (int a = 0; a < micro_batches; ++a)
        for (int r = 0; r < ranks; ++r) {
          cut.fill(step, a, r, ranks, part);
          const auto add = [](auto& to, const auto& from) {
            to.insert(to.end(), from.begin(), from.end());
          };
          add(joined.tokens.ids, part.tokens.ids);
          add(joined.tokens.position, part.tokens.position);
          add(joined.tokens.sequence_index, part.tokens.sequence_index);
          add(joined.segments, part.segments);
          add(joined.numbers, part.numbers);
          add(joined.rows, part.rows);
          CHECK(part.tokens.update_tokens == all.tokens.tokens);
          CHECK(part.tokens.global_scored == update);
          CHECK(part.tokens.sequences == static_cast<int>(part.rows.size()));
          CHECK(part.tokens.sequence_offsets.back() == part.tokens.tokens);
          if (r == 0) micro_tokens += part.tokens.global_tokens;
        }
      CHECK(micro_tokens == all.tokens.tokens);
      CHECK(joined.tokens.ids == all.tokens.ids);
      CHECK(joined.tokens.position == all.tokens.position);
      CHECK(joined.tokens.sequence_index == all.tokens.sequence_index);
      CHECK(joined.segments == all.segments);
      CHECK(joined.numbers == all.numbers);
      CHECK(joined.rows == all.rows);
    }
  }
}

TEST_CASE("a sequence is first, a, separator, b, separator", "[sentences]") {
  const SentenceCorpus corpus = some_pairs();
  const EvalSentences eval(corpus, special, 16, 50, 2);
  std::vector<std::int64_t> rows;
  std::int64_t tokens = 0;
  HostSentenceBatch batch;
  for (int b = 0; b < eval.batches(); ++b)
    for (int rank = 0; rank < 2; ++rank) {
      eval.fill(b, rank, batch);
      CHECK(batch.tokens.tokens <= 50);
      tokens += batch.tokens.tokens;
      for (std::size_t s = 0; s < batch.rows.size(); ++s) {
        const std::int64_t row = batch.rows[s];
        rows.push_back(row);
        const auto [a, c] = truncated(corpus.first(row).size(), corpus.second(row).size(), 16 - 3);
        std::vector<int> ids{special.first}, segments{0};
        for (std::size_t i = 0; i < a; ++i) ids.push_back('a');
        ids.push_back(special.separator);
        segments.resize(ids.size(), 0);
        for (std::size_t i = 0; i < c; ++i) ids.push_back('b');
        ids.push_back(special.separator);
        segments.resize(ids.size(), 1);
        const auto begin = batch.tokens.sequence_offsets[s],
                   end = batch.tokens.sequence_offsets[s + 1];
        CHECK(std::vector<int>(batch.tokens.ids.begin() + begin, batch.tokens.ids.begin() + end) ==
              ids);
        CHECK(std::vector<int>(batch.segments.begin() + begin, batch.segments.begin() + end) ==
              segments);
        CHECK(batch.numbers[s] == static_cast<double>(row) / 4);
      }
    }
  CHECK(tokens == eval.tokens());
  std::vector<std::int64_t> expected(23);
  for (std::size_t i = 0; i < 23; ++i) expected[i] = static_cast<std::int64_t>(i);
  CHECK(rows == expected);
}

TEST_CASE("an epoch takes each row at most once, in its own order", "[sentences]") {
  const SentenceCorpus corpus = some_pairs();
  const SentenceBatches batches(corpus, special, 8, 5, 64);
  std::vector<std::vector<std::int64_t>> epochs(3);
  std::set<std::int64_t> ever;
  HostSentenceBatch batch;
  for (std::int64_t step = 0; step < 12; ++step) {
    batches.fill(step, 0, 0, 1, batch);
    auto& epoch = epochs[static_cast<std::size_t>(step / 4)];
    epoch.insert(epoch.end(), batch.rows.begin(), batch.rows.end());
    ever.insert(batch.rows.begin(), batch.rows.end());
  }
  for (const auto& epoch : epochs) {
    CHECK(epoch.size() == 20);
    CHECK(std::set<std::int64_t>(epoch.begin(), epoch.end()).size() == 20);
  }
  CHECK(epochs[0] != epochs[1]);
  CHECK(ever.size() > 20);  // what one epoch left out another one takes
  // Back at an earlier step: the same.
  batches.fill(0, 0, 0, 1, batch);
  CHECK(batch.rows == std::vector<std::int64_t>(epochs[0].begin(), epochs[0].begin() + 5));
}

TEST_CASE("windows with marks", "[sentences]") {
  HostBatch batch;
  constexpr int length = 20, sequences = 400;
  batch.sequences = sequences;
  batch.tokens = length * sequences;
  batch.sequence_offsets.push_back(0);
  for (int s = 0; s < sequences; ++s) {
    for (int i = 0; i < length; ++i) {
      batch.ids.push_back(100);
      batch.position.push_back(i);
      batch.sequence_index.push_back(static_cast<std::uint32_t>(s));
    }
    batch.sequence_offsets.push_back((s + 1) * length);
  }
  HostBatch again = batch;
  std::vector<int> segments, segments_again;
  mark_windows(special, 3, 9, batch, segments);
  mark_windows(special, 3, 9, again, segments_again);
  CHECK(batch.ids == again.ids);
  CHECK(segments == segments_again);
  int split = 0;
  std::set<int> places;
  for (int s = 0; s < sequences; ++s) {
    const int* const ids = batch.ids.data() + s * length;
    CHECK(ids[0] == special.first);
    CHECK(ids[length - 1] == special.separator);
    int separators = 0, place = length - 1;
    for (int i = 1; i < length - 1; ++i)
      if (ids[i] == special.separator) ++separators, place = i;
    CHECK(separators <= 1);
    split += separators;
    if (separators == 1) places.insert(place);
    for (int i = 0; i < length; ++i)
      CHECK(segments[static_cast<std::size_t>(s * length + i)] == (i > place ? 1 : 0));
  }
  // Half of 400, by five standard deviations; every place with two tokens on either side.
  CHECK(std::abs(split - sequences / 2) < 50);
  CHECK(*places.begin() == 3);
  CHECK(*places.rbegin() == length - 4);
  CHECK(places.size() == length - 6);
}
