// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/config.hpp"
#include "kokomoe/core/error.hpp"
#include "kokomoe/data/tokenizer.hpp"
#include "support/catch.hpp"
#include "support/temporary_folder.hpp"

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

int bytes_of(const Tokenizer& tokenizer, const std::vector<int>& ids) {
  int bytes = 0;
  for (const int id : ids) bytes += tokenizer.bytes_of(id);
  return bytes;
}

}  // namespace

TEST_CASE("the byte tokenizer holds every byte", "[tokenizer]") {
  const auto bytes = make_tokenizer({}, Communicator());
  CHECK(bytes->name() == "bytes");
  CHECK(bytes->vocabulary() == 257);
  CHECK(bytes->beginning_of_text() == 256);
  std::string text;
  for (int i = 0; i < 256; ++i) text += static_cast<char>(i);
  const std::vector<int> ids = bytes->encode(text);
  REQUIRE(ids.size() == 256);
  for (int i = 0; i < 256; ++i) CHECK(ids[static_cast<std::size_t>(i)] == i);
  CHECK(bytes->decode(ids) == text);
  CHECK(bytes_of(*bytes, ids) == 256);
  CHECK(bytes->decode(std::vector<int>{256, 'a', -1, 257, 'b'}) == "ab");
  CHECK(bytes->bytes_of(256) == 0);
  CHECK(bytes->encode("").empty());
  CHECK(make_tokenizer_from("bytes", bytes->serialized())->identity() == bytes->identity());
  CHECK_THAT(message_of<InputError>([] { make_tokenizer_from("words", ""); }),
             contains("unknown tokenizer \"words\""));
}

#ifdef KOKOMOE_HAVE_SENTENCEPIECE

namespace {

std::string english() {
  std::string text;
  const char* const words[] = {"in",   "the",     "beginning", "was",   "a",   "small", "model",
                               "that", "learned", "to",        "route", "its", "tokens"};
  for (int i = 0; i < 4000; ++i) {
    text += words[(i * i + i / 7) % 13];
    text += i % 11 == 10 ? ".\n" : " ";
  }
  return text;
}

}  // namespace

TEST_CASE("SentencePiece gives text back byte for byte", "[tokenizer]") {
  const TemporaryFolder folder;
  write_text(folder / "a.txt", english());
  TokenizerOptions options;
  options.kind = "sentencepiece";
  options.vocabulary = 300;
  options.training_files = {folder / "a.txt"};
  options.cache_folder = folder / "cache";
  const auto tokenizer = make_tokenizer(options, Communicator());
  CHECK(tokenizer->vocabulary() == 300);
  CHECK(tokenizer->needs_utf8());
  std::string ascii;
  for (int i = 1; i < 128; ++i) ascii += static_cast<char>(i);
  for (const std::string& text :
       {english(), std::string("a"), std::string(" two  spaces "), std::string("\n\n x\r\n\ttab\n"),
        std::string("gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x98\x80 unseen Q"), ascii,
        std::string("\xef\xac\x81 ligature, not normalised")}) {
    const std::vector<int> ids = tokenizer->encode(text);
    CHECK(tokenizer->decode(ids) == text);
    CHECK(bytes_of(*tokenizer, ids) == static_cast<int>(text.size()));
    for (const int id : ids) CHECK(id != tokenizer->beginning_of_text());
  }
  CHECK(tokenizer->encode(english()).size() < english().size() / 3);
  // Encoding in pieces that end with a line changes nothing.
  std::vector<int> pieces = tokenizer->encode("the small\n");
  for (const int id : tokenizer->encode(" model\n")) pieces.push_back(id);
  CHECK(pieces == tokenizer->encode("the small\n model\n"));

  SECTION("the same text gives the same model, from the cache or anew") {
    CHECK(make_tokenizer(options, Communicator())->identity() == tokenizer->identity());
    for (const auto& entry : std::filesystem::directory_iterator(options.cache_folder))
      write_text(entry.path().string(), "damaged");
    CHECK(make_tokenizer(options, Communicator())->identity() == tokenizer->identity());
    options.cache_folder = "";
    CHECK(make_tokenizer(options, Communicator())->identity() == tokenizer->identity());
    const auto copy = make_tokenizer_from("sentencepiece", tokenizer->serialized());
    CHECK(copy->encode("the model") == tokenizer->encode("the model"));
  }
  SECTION("of many lines some make the vocabulary") {
    // In two files, with empty lines between.
    std::vector<std::string> lines;
    const std::string text = english();
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t end = std::min(text.find('\n', at), text.size());
      lines.push_back(text.substr(at, end - at));
      at = end + 1;
    }
    REQUIRE(lines.size() == 364);
    const auto join = [&](std::size_t begin, std::size_t end) {
      std::string joined;
      for (std::size_t i = begin; i < end; ++i) joined += lines[i] + "\n\n";
      return joined;
    };
    write_text(folder / "a.txt", join(0, 301));
    write_text(folder / "b.txt", join(301, 364));
    options.training_files = {folder / "a.txt", folder / "b.txt"};
    std::vector<std::string> notes;
    const auto identity = [&] {
      notes.clear();
      return make_tokenizer(options, Communicator(), &notes)->identity();
    };
    const auto models = [&] {
      const auto in = std::filesystem::directory_iterator(options.cache_folder);
      return std::distance(begin(in), end(in));
    };
    const std::string all = identity();
    const auto before = models();
    for (const std::int64_t enough : {364, 100000}) {
      options.training_lines = enough;
      CHECK(identity() == all);
      CHECK(notes.empty());
      CHECK(models() == before);  // the same cache
    }
    options.training_lines = 91;
    const std::string some = identity();
    CHECK(some != all);
    CHECK(models() == before + 1);
    REQUIRE(notes.size() == 1);
    CHECK_THAT(notes[0], contains("91 of 364 lines") && contains("data/vocabulary_lines"));
    CHECK(identity() == some);
    CHECK(notes.size() == 1);  // from the cache, too
    // Every fourth line, whatever the files' borders.
    std::string fourth;
    for (std::size_t i = 3; i < lines.size(); i += 4) fourth += lines[i] + "\n";
    write_text(folder / "a.txt", fourth);
    options.training_files = {folder / "a.txt"};
    CHECK(identity() == some);
    CHECK(notes.empty());
  }
  SECTION("line ends of other systems teach lines nothing") {
    std::string other = "\xef\xbb\xbf";
    for (const char c : english()) other += c == '\n' ? "\r\n" : std::string(1, c);
    write_text(folder / "a.txt", other);
    CHECK(make_tokenizer(options, Communicator())->identity() != tokenizer->identity());
    options.training_form = TextForm::lines;
    CHECK(make_tokenizer(options, Communicator())->identity() == tokenizer->identity());
  }
  SECTION("a model file can be loaded") {
    write_text(folder / "m.model", tokenizer->serialized());
    options.model = folder / "m.model";
    options.training_files.clear();
    CHECK(make_tokenizer(options, Communicator())->identity() == tokenizer->identity());
    write_text(folder / "m.model", "nonsense");
    CHECK_THAT(message_of<InputError>([&] { make_tokenizer(options, Communicator()); }),
               contains("m.model: error: no SentencePiece model"));
    options.model = folder / "none.model";
    CHECK_THAT(message_of<InputError>([&] { make_tokenizer(options, Communicator()); }),
               contains("none.model: error: file not found"));
  }
  SECTION("what cannot be trained is an input error") {
    options.vocabulary = 100000;
    CHECK_THAT(message_of<InputError>([&] { make_tokenizer(options, Communicator()); }),
               contains("SentencePiece cannot train a vocabulary of 100000"));
    TokenizerOptions nowhere = options;
    nowhere.cache_folder = folder / "a.txt";
    CHECK_THAT(message_of<InputError>([&] { make_tokenizer(nowhere, Communicator()); }),
               contains("a.txt: error: the cache folder cannot be made: Not a directory"));
    options.vocabulary = 10;
    CHECK_THROWS_AS(make_tokenizer(options, Communicator()), InputError);
    options.vocabulary = 300;
    write_text(folder / "a.txt", "fine\nbad \xff byte\n");
    CHECK_THAT(message_of<InputError>([&] { make_tokenizer(options, Communicator()); }),
               contains("a.txt:2: error: not UTF-8"));
    write_text(folder / "a.txt", "");
    CHECK_THAT(message_of<InputError>([&] { make_tokenizer(options, Communicator()); }),
               contains("a.txt: error: the file is empty"));
  }
}

#else

TEST_CASE("a build without SentencePiece says so", "[tokenizer]") {
  CHECK_THAT(message_of<InputError>([] { make_tokenizer_from("sentencepiece", ""); }),
             contains("built without SentencePiece"));
}

#endif
