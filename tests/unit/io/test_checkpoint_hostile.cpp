// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause

// State files whose manifest fits, so that nothing stands between them and HDF5.
#include "../../../src/io/digest.hpp"
#include "../../../src/io/manifest.hpp"
#include "checkpoint_fixture.hpp"
#include "support/catch.hpp"
#include "support/temporary_folder.hpp"

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

/// Replaces state.h5 and writes the manifest that belongs to it.
void plant(const std::string& step, const std::string& state) {
  write_text(step + "/state.h5", state);
  detail::Manifest manifest = detail::parse_manifest(detail::read_manifest_text(step), step);
  manifest.state_bytes = state.size();
  manifest.state_digest = detail::xxh3(state.data(), state.size());
  write_text(step + "/manifest.json", detail::manifest_text(manifest));
}

}  // namespace

TEST_CASE("a wrong block is found by its own digest", "[checkpoint]") {
  const TemporaryFolder folder;
  save(folder.path(), *make_store<float>(1), 1);
  const std::string step = folder / "step_1";
  const std::string state = read_text(step + "/state.h5");
  const detail::Manifest manifest = detail::parse_manifest(detail::read_manifest_text(step), step);
  for (const auto& dataset : manifest.datasets) {
    if (dataset.name.starts_with("digests/")) continue;
    std::string changed = state;
    const std::size_t last = dataset.offset + dataset.bytes - 1;
    changed[last] = static_cast<char>(changed[last] ^ 1);
    plant(step, changed);
    auto store = make_store<float>(9);
    const std::string before = bits_of(*store);
    const std::string error =
        message_of<InputError>([&] { load_checkpoint(step, *store, Communicator()); });
    const std::size_t blocks = dataset.shape.size() == 1 ? 1 : dataset.shape[0];
    CHECK_THAT(error, contains("step_1/state.h5: error: /" + dataset.name + ": block " +
                               std::to_string(blocks - 1) + " of " + std::to_string(blocks) +
                               " does not have its digest"));
    CHECK(bits_of(*store) == before);
  }
}

// HDF5 1.10 loses memory of its own on some of these files and says "infinite loop closing library"
// when the program ends; our handles are all closed.
TEST_CASE("metadata that lies is refused or harmless", "[checkpoint]") {
  const TemporaryFolder folder;
  auto source = make_store<float>(1);
  save(folder.path(), *source, 1);
  const std::string step = folder / "step_1";
  const std::string state = read_text(step + "/state.h5");
  int refused = 0;
  for (std::size_t at = 0; at < state.size(); at += 1 + state.size() / 400) {
    std::string changed = state;
    changed[at] = static_cast<char>(changed[at] ^ (1 << (at % 8)));
    plant(step, changed);
    auto store = make_store<float>(9);
    const std::string before = bits_of(*store);
    try {
      load_checkpoint(step, *store, Communicator());
      CHECK(bits_of(*store) == bits_of(*source));  // a byte that nothing uses
    } catch (const InputError& error) {
      CHECK(bits_of(*store) == before);
      CHECK_THAT(error.what(), contains("state.h5: error: "));
      ++refused;
    }
    try {
      inspect_checkpoint(step);
    } catch (const InputError&) {
    }
  }
  CHECK(refused > 200);
  // Cut files and files that are no HDF5.
  for (const std::string& text : {std::string(), std::string("hello"), state.substr(0, 100),
                                  state.substr(0, state.size() - 1)}) {
    plant(step, text);
    auto store = make_store<float>(9);
    CHECK_THROWS_AS(load_checkpoint(step, *store, Communicator()), InputError);
  }
}

TEST_CASE("manifests of other makers are refused", "[checkpoint]") {
  const auto sealed = [](std::string body) {
    body += ",\n ";
    const std::string digest = detail::hex(detail::xxh3(body.data(), body.size()));
    return body + "\"manifest_xxh3\": \"" + digest + "\"\n}\n";
  };
  const auto error = [&](const std::string& body) {
    return message_of<InputError>([&] { detail::parse_manifest(sealed(body), "m.json"); });
  };
  CHECK_THAT(error("{\"format\": \"x\""), contains("m.json: error: another program's file"));
  CHECK_THAT(error("{\"format\": \"kokomoe checkpoint\", \"format_version\": 2"),
             contains("format version 2, but this Kokomoe reads 1"));
  CHECK_THAT(error("{\"format\": \"kokomoe checkpoint\", \"format_version\": \"1\""),
             contains("m.json: error: "));
  CHECK_THAT(error("{\"format\": 3"), contains("m.json: error: "));
  CHECK_THAT(error("[1"), contains("m.json: error: "));
  CHECK_THAT(error("{\"a\": " + std::string(100000, '[')), contains("m.json: error: "));
}
