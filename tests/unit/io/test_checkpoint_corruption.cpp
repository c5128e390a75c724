// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause

// 200 flipped bits and 40 truncations, spread over everything that a checkpoint consists of.
#include "checkpoint_fixture.hpp"
#include "kokomoe/core/error.hpp"
#include "support/catch.hpp"
#include "support/temporary_folder.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <random>

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

/// A checkpoint to damage, and an older one that stays whole.
class Victim {
 public:
  Victim() {
    save(folder_.path(), *make_store<float>(1), 1);
    save(folder_.path(), *make_store<float>(2), 2);
    state = read_text(step() + "/state.h5");
    manifest = read_text(step() + "/manifest.json");
    const auto datasets = nlohmann::json::parse(manifest)["datasets"];
    for (const auto& dataset : datasets) {
      const Place place{dataset["name"], dataset["offset"], dataset["bytes"]};
      (place.name.starts_with("digests/") ? digests : tensors).push_back(place);
    }
  }

  struct Place {
    std::string name;
    std::size_t offset = 0, bytes = 0;
    bool holds(std::size_t at) const { return at >= offset && at < offset + bytes; }
  };

  std::string step() const { return folder_ / "step_2"; }

  /// True when loading `file` with this text is refused as it should be: with the file's name, the
  /// text `where` in the message, the older checkpoint offered, and the model as it was.
  bool refused(const std::string& file, const std::string& text, const std::string& where) const {
    const std::string path = step() + "/" + file;
    const std::string whole = read_text(path);
    write_text(path, text);
    auto store = make_store<float>(9);
    const std::string before = bits_of(*store);
    std::string message;
    try {
      load_checkpoint(step(), *store, Communicator());
    } catch (const InputError& error) {
      message = error.what();
    }
    write_text(path, whole);
    const auto has = [&](const std::string& part) { return message.find(part) < message.npos; };
    const bool right = has(path + ": error: ") && has(where) &&
                       has(folder_ / "step_1 is whole: use -r ") && bits_of(*store) == before;
    if (!right) UNSCOPED_INFO(file << ", \"" << where << "\" expected: \"" << message << "\"");
    return right;
  }

  std::string state, manifest;
  std::vector<Place> tensors, digests;

 private:
  TemporaryFolder folder_;
};

std::string flipped(std::string text, std::size_t at, unsigned bit) {
  text[at] = static_cast<char>(static_cast<unsigned char>(text[at]) ^ (1u << bit));
  return text;
}

}  // namespace

TEST_CASE("200 of 200 flipped bits are found and placed", "[checkpoint]") {
  const Victim victim;
  std::mt19937 random(2027);
  const auto below = [&](std::size_t end) {
    return std::uniform_int_distribution<std::size_t>(0, end - 1)(random);
  };
  const auto flip = [&](const std::string& text, std::size_t at) {
    return flipped(text, at, static_cast<unsigned>(below(8)));
  };
  int found = 0;
  for (int i = 0; i < 40; ++i)
    found += victim.refused("manifest.json", flip(victim.manifest, below(victim.manifest.size())),
                            "damaged")
                 ? 1
                 : 0;
  const auto in_datasets = [&](const std::vector<Victim::Place>& places, int count) {
    for (int i = 0; i < count; ++i) {
      const Victim::Place& place = places[static_cast<std::size_t>(i) % places.size()];
      const std::size_t at = place.offset + below(place.bytes);
      found +=
          victim.refused("state.h5", flip(victim.state, at), "damage lies in /" + place.name + "\n")
              ? 1
              : 0;
    }
  };
  in_datasets(victim.tensors, 70);
  in_datasets(victim.digests, 40);
  // Neither tensor nor digest: what describes them.
  for (int i = 0; i < 50;) {
    const std::size_t at = below(victim.state.size());
    const auto lies_in = [&](const Victim::Place& place) { return place.holds(at); };
    if (std::any_of(victim.tensors.begin(), victim.tensors.end(), lies_in) ||
        std::any_of(victim.digests.begin(), victim.digests.end(), lies_in))
      continue;
    found += victim.refused("state.h5", flip(victim.state, at), "but what describes them") ? 1 : 0;
    ++i;
  }
  CHECK(found == 200);
}

TEST_CASE("40 of 40 truncations are found", "[checkpoint]") {
  const Victim victim;
  int found = 0;
  for (std::size_t i = 0; i < 20; ++i) {
    const std::size_t state_size = i * (victim.state.size() - 1) / 19;
    found += victim.refused("state.h5", victim.state.substr(0, state_size),
                            std::to_string(state_size) + " bytes, but the manifest says " +
                                std::to_string(victim.state.size()))
                 ? 1
                 : 0;
    const std::size_t manifest_size = i * (victim.manifest.size() - 1) / 19;
    found += victim.refused("manifest.json", victim.manifest.substr(0, manifest_size), "damaged")
                 ? 1
                 : 0;
  }
  CHECK(found == 40);
}
