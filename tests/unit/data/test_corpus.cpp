// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/config.hpp"
#include "kokomoe/core/error.hpp"
#include "kokomoe/data/corpus.hpp"
#include "support/catch.hpp"
#include "support/temporary_folder.hpp"
#include "support/unprivileged.hpp"

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

std::vector<int> all(const Corpus& corpus) {
  std::vector<int> ids(corpus.size());
  corpus.copy(0, corpus.size(), ids.data());
  return ids;
}

/// A byte tokenizer whose ids need 32 bits.
class WideTokenizer final : public Tokenizer {
 public:
  int vocabulary() const override { return 100257; }
  int beginning_of_text() const override { return 100256; }
  std::vector<int> encode(std::string_view text) const override {
    std::vector<int> ids;
    for (const char c : text) ids.push_back(100000 + static_cast<unsigned char>(c));
    return ids;
  }
  std::string decode(std::span<const int>) const override { return ""; }
  std::string name() const override { return "wide"; }
  std::string identity() const override { return "wide/1"; }
  int bytes_of(int id) const override { return id == beginning_of_text() ? 0 : 1; }
  bool needs_utf8() const override { return true; }
  std::string serialized() const override { return ""; }
};

}  // namespace

TEST_CASE("a corpus is its files' tokens, each begun by the beginning of text", "[corpus]") {
  const TemporaryFolder folder;
  const auto bytes = make_tokenizer({}, Communicator());
  write_text(folder / "a.txt", "ab\n\xff");
  write_text(folder / "b.txt", "c");
  const std::vector<std::string> files = {folder / "a.txt", folder / "b.txt"};
  const Corpus corpus = Corpus::open(files, *bytes, folder / "deep/cache", Communicator());
  CHECK(all(corpus) == std::vector<int>{256, 'a', 'b', '\n', 255, 256, 'c'});
  CHECK(corpus.size() == 7);
  CHECK(corpus.text_bytes() == 5);
  CHECK(corpus.vocabulary() == 257);
  CHECK(corpus.beginning_of_text() == 256);
  CHECK(corpus[4] == 255);
  CHECK(corpus.bytes_of('a') == 1);
  CHECK(corpus.bytes_of(256) == 0);
  CHECK_THROWS_AS(corpus[7], Error);
  int out[8];
  CHECK_THROWS_AS(corpus.copy(4, 4, out), Error);
  CHECK_THROWS_AS(corpus.copy(8, 0, out), Error);

  SECTION("the cache is made once and follows contents, order and tokenizer") {
    CHECK_FALSE(corpus.reused());
    const Corpus again = Corpus::open(files, *bytes, folder / "deep/cache", Communicator());
    CHECK(again.reused());
    CHECK(again.path() == corpus.path());
    CHECK(all(again) == all(corpus));
    CHECK(
        Corpus::open({files[1], files[0]}, *bytes, folder / "deep/cache", Communicator()).path() !=
        corpus.path());
    write_text(folder / "c.txt",
               "ab\n\xff"
               "c");
    CHECK(Corpus::open({folder / "c.txt"}, *bytes, folder / "deep/cache", Communicator()).path() !=
          corpus.path());
    write_text(folder / "b.txt", "d");
    const Corpus changed = Corpus::open(files, *bytes, folder / "deep/cache", Communicator());
    CHECK_FALSE(changed.reused());
    CHECK(changed[6] == 'd');
    CHECK(corpus[6] == 'c');
  }
  SECTION("a damaged cache is made anew") {
    const std::string good = read_text(corpus.path());
    for (std::size_t at = 0; at <= good.size(); ++at) {
      std::string bad = good;
      if (at == good.size())
        bad.pop_back();
      else
        bad[at] = static_cast<char>(bad[at] ^ 4);
      // Not in place: the corpus above still maps the old file.
      write_text(folder / "bad", bad);
      std::filesystem::rename(folder / "bad", corpus.path());
      const Corpus mended = Corpus::open(files, *bytes, folder / "deep/cache", Communicator());
      INFO("byte " << at);
      CHECK_FALSE(mended.reused());
      CHECK(read_text(corpus.path()) == good);
    }
  }
  SECTION("no file is left aside") {
    for (const auto& entry : std::filesystem::directory_iterator(folder / "deep/cache"))
      CHECK(entry.path().extension() == ".bin");
  }
}

TEST_CASE("large vocabularies take four bytes a token", "[corpus]") {
  const TemporaryFolder folder;
  write_text(folder / "a.txt", "ab");
  const Corpus corpus =
      Corpus::open({folder / "a.txt"}, WideTokenizer(), folder / "cache", Communicator());
  CHECK(all(corpus) == std::vector<int>{100256, 100097, 100098});
  CHECK(std::filesystem::file_size(corpus.path()) == 64 + 3 * 4);
}

TEST_CASE("long texts are tokenized in pieces without a seam", "[corpus]") {
  const TemporaryFolder folder;
  std::string text;
  while (text.size() < 5000000) text += "line " + std::to_string(text.size()) + "\n";
  write_text(folder / "a.txt", text);
  const auto bytes = make_tokenizer({}, Communicator());
  const Corpus corpus = Corpus::open({folder / "a.txt"}, *bytes, folder / "cache", Communicator());
  std::vector<int> expected = bytes->encode(text);
  expected.insert(expected.begin(), 256);
  CHECK(all(corpus) == expected);
}

TEST_CASE("bad text files are named", "[corpus]") {
  const TemporaryFolder folder;
  const auto bytes = make_tokenizer({}, Communicator());
  const auto error = [&](const std::vector<std::string>& files, const Tokenizer& tokenizer) {
    return message_of<InputError>(
        [&] { Corpus::open(files, tokenizer, folder / "cache", Communicator()); });
  };
  write_text(folder / "empty.txt", "");
  CHECK_THAT(error({}, *bytes), contains("no text files"));
  CHECK(error({folder / "none.txt"}, *bytes) == folder / "none.txt" + ": error: file not found");
  CHECK(error({folder / "empty.txt"}, *bytes) ==
        folder / "empty.txt" + ": error: the file is empty");
  CHECK(error({folder.path()}, *bytes) == folder.path() + ": error: this is a folder, not a file");
  for (const char* bad : {"\x80", "\xc3(", "\xc0\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80",
                          "\xe2\x82", "\xf0\x80\x80\x80", "\xff"}) {
    write_text(folder / "bad.txt", std::string("fine \xe2\x82\xac\n\xf0\x9f\x98\x80\nbad: ") + bad);
    CHECK_THAT(error({folder / "bad.txt"}, WideTokenizer()),
               contains("bad.txt:3: error: not UTF-8: byte 19 of the file"));
  }
  write_text(folder / "a.txt", "a");
  write_text(folder / "file", "");
  CHECK_THAT(message_of<InputError>([&] {
               Corpus::open({folder / "a.txt"}, *bytes, folder / "file", Communicator());
             }),
             contains("the cache folder cannot be made: Not a directory"));
}

TEST_CASE("a cache folder that may not be written to is named, with the reason", "[corpus]") {
  const TemporaryFolder folder;
  const auto bytes = make_tokenizer({}, Communicator());
  write_text(folder / "a.txt", "a");
  write_text(folder / "b.txt", "b");
  const std::string cache = folder / "cache";
  const auto open = [&](const std::string& file) {
    return Corpus::open({folder / file}, *bytes, cache, Communicator());
  };
  open("a.txt");
  std::filesystem::permissions(cache, std::filesystem::perms(0555));
  const Unprivileged nobody;
  if (!nobody.holds()) return;
  CHECK(open("a.txt").reused());
  CHECK(message_of<InputError>([&] { open("b.txt"); }) ==
        cache + ": error: the cache folder cannot be written to: Permission denied");
}
