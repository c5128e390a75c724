// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/error.hpp"
#include "kokomoe/io/deck.hpp"
#include "support/catch.hpp"
#include "support/temporary_folder.hpp"

#include <cstring>
#include <limits>

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

Schema schema() {
  Schema s;
  s.add(KeySpec::integer("run/seed", 1, "seed").at_least(0))
      .add(KeySpec::text("moe/router", "sparsemixer", "router")
               .choice({"switch", "sparsemixer", "top_k"}))
      .add(KeySpec::integer("moe/experts", 4, "experts").range(1, 1024))
      .add(KeySpec::real("moe/jitter", 0.1, "noise").range(0, 1))
      .add(KeySpec::boolean("moe/output_gain", true, "omega"))
      .add(KeySpec::integer("train/steps", 100, "updates").range(1, 1e9))
      .add(KeySpec::list("data/train", {}, "text files"))
      .add(KeySpec::text("data/cache", "", "folder"));
  return s;
}

std::string error_of(const std::string& text, const std::vector<std::string>& overrides = {}) {
  return message_of<InputError>([&] { Deck::parse(text, "x.toml", schema(), overrides); });
}

}  // namespace

TEST_CASE("a deck gives its values and the defaults of the rest", "[deck]") {
  const Deck deck = Deck::parse(
      "[run]\nseed = 7\n\n[moe]\nrouter = \"switch\" # a comment\njitter = 1\n[data]\n"
      "train = [\"a.txt\", 'b c.txt']\n",
      "x.toml", schema());
  CHECK(deck.integer("run/seed") == 7);
  CHECK(deck.text("moe/router") == "switch");
  CHECK(deck.real("moe/jitter") == 1.0);  // an integer where a real number is wanted
  CHECK(deck.integer("moe/experts") == 4);
  CHECK(deck.boolean("moe/output_gain"));
  CHECK(deck.list("data/train") == std::vector<std::string>{"a.txt", "b c.txt"});
  CHECK(deck.given("run/seed"));
  CHECK_FALSE(deck.overridden("run/seed"));
  CHECK_FALSE(deck.given("moe/experts"));
  CHECK(deck.known("moe/experts"));
  CHECK_FALSE(deck.known("moe/expert"));
  CHECK(deck.name() == "x.toml");
  CHECK_THROWS_AS(deck.integer("moe/expert"), Error);
  CHECK_THROWS_AS(deck.integer("moe/jitter"), Error);
}

TEST_CASE("an unknown key is shown with line, caret and the nearest name", "[deck]") {
  CHECK(error_of("[moe]\n\nexperst = 4\n") ==
        "x.toml:3:1: error: unknown key \"moe/experst\"\n"
        "   3 | experst = 4\n"
        "     | ^~~~~~~ did you mean \"moe/experts\"?");
  CHECK(error_of("[moe]\n  experst = 4\n") ==
        "x.toml:2:3: error: unknown key \"moe/experst\"\n"
        "   2 |   experst = 4\n"
        "     |   ^~~~~~~ did you mean \"moe/experts\"?");
  CHECK_THAT(error_of("moe = { experst = 4 }\n"),
             contains("x.toml:1:9: error: unknown key \"moe/experst\""));
  CHECK_THAT(error_of("moe.experst = 4\n"), contains("x.toml:1:5: error: unknown key"));
  CHECK_THAT(error_of("[moe]\nexperst = [1,\n 2]\n"), contains("x.toml:2:1: error: unknown key"));
  // The right word in the wrong place.
  CHECK_THAT(error_of("[moe]\nsteps = 4\n"), contains("did you mean \"train/steps\"?"));
  CHECK_THAT(error_of("steps = 4\n"), contains("x.toml:1:1: error: unknown key \"steps\""));
}

TEST_CASE("an unknown section is shown once", "[deck]") {
  const std::string error = error_of("[mooe]\nexperts = 4\nrouter = 3\n");
  CHECK(error ==
        "x.toml:1:2: error: unknown section \"mooe\"\n"
        "   1 | [mooe]\n"
        "     |  ^~~~ did you mean \"moe\"?");
  CHECK_THAT(error_of("moe = 4\n"), contains("\"moe\" must be a section, not an integer"));
}

TEST_CASE("a wrong type names both types", "[deck]") {
  CHECK(error_of("[moe]\nexperts = \"four\"\n") ==
        "x.toml:2:11: error: \"moe/experts\" must be an integer, not text\n"
        "   2 | experts = \"four\"\n"
        "     |           ^~~~~~");
  CHECK_THAT(error_of("[moe]\nexperts = 4.0\n"), contains("must be an integer, not a real number"));
  CHECK_THAT(error_of("[moe]\njitter = true\n"),
             contains("must be a real number, not true or false"));
  CHECK_THAT(error_of("[moe]\noutput_gain = 1\n"),
             contains("must be true or false, not an integer"));
  CHECK_THAT(error_of("[moe]\nrouter = 2020-01-01\n"),
             contains("must be text, not a date or time"));
  CHECK_THAT(error_of("[data]\ntrain = [1, 2]\n"),
             contains("must be a list of text, not a list of"));
  CHECK_THAT(error_of("[data]\ntrain = \"a\"\n"), contains("must be a list of text, not text"));
}

TEST_CASE("lists of numbers", "[deck]") {
  Schema schema;
  schema.add(KeySpec::numbers("study/experts", {3, 6}, "E").range(1, 64));
  const auto deck = [&](const std::string& text) { return Deck::parse(text, "x.toml", schema); };
  CHECK(deck("").numbers("study/experts") == std::vector<double>{3, 6});
  CHECK(deck("[study]\nexperts = [4, 0.5e1]\n").numbers("study/experts") ==
        std::vector<double>{4, 5});
  CHECK(deck("[study]\nexperts = []\n").numbers("study/experts").empty());
  const Deck again = deck(deck("[study]\nexperts = [4, 5.5]\n").effective());
  CHECK(again.numbers("study/experts") == std::vector<double>{4, 5.5});
  CHECK_THAT(message_of<InputError>([&] { deck("[study]\nexperts = [4, 100]\n"); }),
             contains("\"study/experts\" is 100, but must be between 1 and 64"));
  CHECK_THAT(message_of<InputError>([&] { deck("[study]\nexperts = [4, \"a\"]\n"); }),
             contains("must be a list of numbers, not a list of several kinds"));
}

TEST_CASE("numbers outside their range and not finite are refused", "[deck]") {
  CHECK_THAT(error_of("[moe]\nexperts = 0\n"),
             contains("x.toml:2:11: error: \"moe/experts\" is 0, but must be between 1 and 1024"));
  CHECK_THAT(error_of("[run]\nseed = -1\n"),
             contains("\"run/seed\" is -1, but must be at least 0"));
  CHECK_THAT(error_of("[moe]\njitter = 1.5\n"), contains("is 1.5, but must be between 0 and 1"));
  CHECK_THAT(error_of("[moe]\njitter = nan\n"), contains("\"moe/jitter\" must be finite"));
  CHECK_THAT(error_of("[moe]\njitter = -inf\n"), contains("\"moe/jitter\" must be finite"));
  CHECK_THAT(error_of("[train]\nsteps = 99999999999999999999\n"), contains("x.toml:2:"));
}

TEST_CASE("a bad choice lists the choices and the nearest", "[deck]") {
  const std::string error = error_of("[moe]\nrouter = \"swich\"\n");
  CHECK_THAT(error, contains("x.toml:2:10: error: \"moe/router\" is \"swich\", but must be one of: "
                             "switch, sparsemixer, top_k"));
  CHECK_THAT(error, contains("did you mean \"switch\"?"));
}

TEST_CASE("several errors are told at once, in the order of the deck", "[deck]") {
  const std::string error = error_of("[moe]\nexpers = 4\njitter = 7\n[trian]\n", {"moe/k", "a=1"});
  std::size_t last = 0;
  for (const char* part : {"x.toml:2:1:", "x.toml:3:10:", "x.toml:4:2:", "moe/k", "\"a\""}) {
    INFO(error);
    const auto at = error.find(part, last);
    REQUIRE(at != std::string::npos);
    last = at;
  }
}

TEST_CASE("syntax errors name file and line", "[deck]") {
  for (const char* text :
       {"[moe]\nexperts = \n", "[moe]\nexperts 4\n", "[moe]\nrouter = \"a\n", "[moe]\n= 4\n",
        "[moe]\n[moe\n", "[moe]\nexperts = 4 4\n", "[moe]\nexperts = [1, 2\n"}) {
    const std::string error = error_of(text);
    INFO(error);
    CHECK(error.rfind("x.toml:", 0) == 0);
    CHECK_THAT(error, contains(": error: "));
    CHECK_THAT(error, contains("^"));
    CHECK(error.find("toml::") == std::string::npos);
  }
  CHECK_THAT(error_of("[moe]\nexperts = \n"), contains("x.toml:2:"));
  CHECK_THAT(error_of("[moe]\nexperts = 3\nexperts = 4\n"), contains("experts"));
  CHECK_THAT(error_of("[moe]\nexperts = " + std::string(100000, '[') + "\n"),
             contains("x.toml:2:75: error: brackets are nested too deeply"));
  // Long lines are cut around what matters.
  CHECK(error_of("[moe]\nexperts = " + std::string(100000, '[') + "\n").size() < 400);
  CHECK_THAT(error_of(std::string("[moe]\n\0x = 1", 12)),
             contains("x.toml:2:1: error: a zero byte"));
  // Text may end in quotes itself: these brackets are outside of it.
  CHECK_THAT(error_of("x = ['''a'''', " + std::string(100000, '[')),
             contains("brackets are nested too deeply"));
  std::string key = "a";
  for (int i = 0; i < 10000; ++i) key += ".a";
  CHECK_THAT(error_of(key + " = 1"), contains("x.toml:1:130: error: a key has too many parts"));
  CHECK_THAT(error_of("#" + std::string(200000, 'x')),
             contains("x.toml: error: larger than 131072 bytes: this is no deck"));
}

TEST_CASE("decks are UTF-8", "[deck]") {
  for (const char* text :
       {"\xff", "\xc0\x80", "\xe9", "\xe0\x80\x80", "\xed\xa0\x80", "\xf0\x80\x80\x80",
        "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\x80", "\xe2\x82"}) {
    for (const char* quote : {"'", "\"", "'''", "\"\"\""})
      CHECK_THAT(error_of(std::string("[data]\ncache = ") + quote + text + quote),
                 contains("x.toml:2:" + std::to_string(9 + std::strlen(quote)) +
                          ": error: this is not UTF-8"));
    CHECK_THAT(error_of("", {std::string("data/cache=") + text}),
               contains("override: error: this is not UTF-8"));
  }
  const std::string good = "\xc3\xa9 \xe2\x82\xac \xed\x9f\xbf \xf0\x9f\x98\x80 \xf4\x8f\xbf\xbf";
  CHECK(Deck::parse("[data]\ncache = '" + good + "'", "x", schema()).text("data/cache") == good);
}

TEST_CASE("integers that do not fit are not cut", "[deck]") {
  for (const char* text : {"99999999999999999999", "-99999999999999999999", "0xffffffffffffffffff"})
    CHECK_THAT(error_of(std::string("[run]\nseed = ") + text),
               contains("\"run/seed\" must be an integer, not an integer beyond 64 bits"));
  Schema lists;
  lists.add(KeySpec::numbers("scales", {1}, "any"));
  CHECK_THROWS_AS(Deck::parse("scales = [1, 99999999999999999999]", "x.toml", lists), InputError);
  // As real numbers they fit, and stay what they are.
  const Deck deck = Deck::parse("scales = [3, -0.0, 99999999999999999999.0]", "x.toml", lists);
  CHECK(deck.toml("scales") == "[3, -0.0, 1e+20]");
}

TEST_CASE("decks of any size and shape are read or refused", "[deck]") {
  CHECK(Deck::parse("", "x.toml", schema()).integer("train/steps") == 100);
  CHECK(Deck::parse("\r", "x.toml", schema()).integer("train/steps") == 100);
  CHECK(Deck::parse("# only [0, 1) this", "x.toml", schema()).integer("train/steps") == 100);
  CHECK(Deck::parse("[train]\r\nsteps = 5\r\n", "x.toml", schema()).integer("train/steps") == 5);
  CHECK(Deck::parse("[train]\nsteps = 5", "x.toml", schema()).integer("train/steps") == 5);
  CHECK(Deck::parse("\xef\xbb\xbf[train]\nsteps = 5", "x.toml", schema()).integer("train/steps") ==
        5);
}

TEST_CASE("overrides win and take bare words", "[deck]") {
  const std::string text = "[moe]\nrouter = \"top_k\"\nexperts = 2\n";
  const Deck deck =
      Deck::parse(text, "x.toml", schema(),
                  {"moe/router=switch", "moe/jitter=0.5", "moe/experts=8", "moe/experts=16",
                   "moe/output_gain=false", "data/train=a=b.txt", "data/cache=2024"});
  CHECK(deck.text("moe/router") == "switch");
  CHECK(deck.real("moe/jitter") == 0.5);
  CHECK(deck.integer("moe/experts") == 16);
  CHECK_FALSE(deck.boolean("moe/output_gain"));
  CHECK(deck.list("data/train") == std::vector<std::string>{"a=b.txt"});
  CHECK(deck.text("data/cache") == "2024");
  CHECK(deck.given("moe/jitter"));
  CHECK(deck.overridden("moe/jitter"));
  CHECK(deck.toml("moe/jitter") == "0.5");
  CHECK(deck.toml("moe/router") == "\"switch\"");
  CHECK(Deck::parse(text, "x", schema(), {"data/train=['a', \"b\"]"}).list("data/train") ==
        std::vector<std::string>{"a", "b"});
  CHECK(Deck::parse(text, "x", schema(), {"data/train="}).list("data/train").empty());
  CHECK(Deck::parse(text, "x", schema(), {"moe/router=\"switch\""}).text("moe/router") == "switch");
  CHECK(Deck::parse(text, "x", schema(), {"data/cache=a b"}).text("data/cache") == "a b");
}

TEST_CASE("bad overrides point into their own text", "[deck]") {
  CHECK(error_of("", {"moe/experst=4"}) ==
        "override: error: unknown key \"moe/experst\"\n"
        "     | moe/experst=4\n"
        "     | ^~~~~~~~~~~ did you mean \"moe/experts\"?");
  CHECK(error_of("", {"moe/experts=four"}) ==
        "override: error: \"moe/experts\" must be an integer, not text\n"
        "     | moe/experts=four\n"
        "     |             ^~~~");
  CHECK_THAT(error_of("", {"moe/router"}), contains("expected section/key=value"));
  CHECK_THAT(error_of("", {"=4"}), contains("expected section/key=value"));
  CHECK_THAT(error_of("", {"moe/experts="}), contains("must be an integer, not text"));
  CHECK_THAT(error_of("", {"moe/experts=4\nrouter = 3"}), contains("must be an integer, not text"));
  CHECK_THAT(error_of("", {"moe/router=swich"}), contains("did you mean \"switch\"?"));
  CHECK_THAT(error_of("", {"data/train=[a, b]"}), contains("a broken list"));
}

TEST_CASE("required keys must be given", "[deck]") {
  Schema s;
  s.add(KeySpec::text("data/train", "", "a text file").required());
  const auto parse = [&](const std::string& text, const std::vector<std::string>& overrides) {
    return Deck::parse(text, "x.toml", s, overrides).text("data/train");
  };
  CHECK(message_of<InputError>([&] { parse("", {}); }) ==
        "x.toml: error: missing key \"data/train\" (text: a text file)");
  CHECK(parse("[data]\ntrain = 'a'", {}) == "a");
  CHECK(parse("", {"data/train=b"}) == "b");
}

TEST_CASE("the effective deck reads back the same", "[deck]") {
  Schema s = schema();
  s.add(KeySpec::real("train/rate", 1e-5, "")).add(KeySpec::real("train/decay", 0.1, ""));
  s.add(KeySpec::integer("top", 3, ""));
  const Deck deck = Deck::parse(
      "top = -4\n[run]\nseed = 9007199254740993\n[data]\n"
      "cache = \"a \\\"q\\\" \\\\ \\n\\u0001 \xc3\xa4\"\n",
      "dir/x.toml", s, {"data/train=['a\"b', 'c']", "train/rate=3"});
  const std::string effective = deck.effective();
  INFO(effective);
  CHECK_THAT(effective, contains("seed = 9007199254740993  # dir/x.toml:3\n"));
  CHECK_THAT(effective, contains("experts = 4  # default\n"));
  CHECK_THAT(effective, contains("rate = 3.0  # override\n"));
  const Deck again = Deck::parse(effective, "effective.toml", s);
  for (const KeySpec& key : s.keys()) {
    INFO(key.name);
    switch (key.default_value.index()) {
      case 0:
        CHECK(again.integer(key.name) == deck.integer(key.name));
        break;
      case 1:
        CHECK(again.real(key.name) == deck.real(key.name));
        break;
      case 2:
        CHECK(again.boolean(key.name) == deck.boolean(key.name));
        break;
      case 3:
        CHECK(again.text(key.name) == deck.text(key.name));
        break;
      default:
        CHECK(again.list(key.name) == deck.list(key.name));
    }
  }
}

TEST_CASE("refuse points at where a value came from", "[deck]") {
  const Deck deck = Deck::parse("[moe]\nexperts = 3\n", "x.toml", schema(), {"train/steps=5"});
  CHECK(message_of<InputError>([&] { deck.refuse("moe/experts", "must be even"); }) ==
        "x.toml:2:11: error: \"moe/experts\": must be even\n"
        "   2 | experts = 3\n"
        "     |           ^");
  CHECK(message_of<InputError>([&] { deck.refuse("train/steps", "too few"); }) ==
        "override: error: \"train/steps\": too few\n"
        "     | train/steps=5\n"
        "     |             ^");
  CHECK(message_of<InputError>([&] { deck.refuse("run/seed", "unlucky"); }) ==
        "x.toml: error: \"run/seed\" (default 1): unlucky");
}

TEST_CASE("files that cannot be decks are named", "[deck]") {
  const TemporaryFolder folder;
  const auto load = [&](const std::string& path) {
    return message_of<InputError>([&] { Deck::load(path, schema()); });
  };
  CHECK(load(folder / "none.toml") == folder / "none.toml" + ": error: deck not found");
  CHECK(load(folder.path()) == folder.path() + ": error: this is a folder, not a deck");
  write_text(folder / "x.toml", "[train]\nsteps = 12\n");
  CHECK(Deck::load(folder / "x.toml", schema()).integer("train/steps") == 12);
}

TEST_CASE("schemas merge", "[deck]") {
  Schema s = schema();
  const auto count = s.keys().size();
  s.add(KeySpec::text("moe/router", "x", "").choice({"hash", "switch"}));
  CHECK(s.keys().size() == count);
  CHECK(s.find("moe/router")->choices ==
        std::vector<std::string>{"switch", "sparsemixer", "top_k", "hash"});
  CHECK_THROWS_AS(s.add(KeySpec::real("moe/experts", 1, "")), Error);
  CHECK(s.find("nothing") == nullptr);
}
