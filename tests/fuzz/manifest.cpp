// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause

// An input is a manifest less its last line, which holds its digest and is put on here, so that
// something gets behind it.
#include "io/manifest.hpp"
#include "fuzz/targets.hpp"
#include "io/digest.hpp"
#include "support/temporary_folder.hpp"

#include <cstring>
#include <optional>

namespace kokomoe::fuzz {

namespace {

constexpr std::size_t state_bytes = 64;

/// A step folder whose state.h5 no manifest fits.
const std::string& step_folder() {
  static const test::TemporaryFolder folder;
  static const bool written = [] {
    test::write_text(folder / "state.h5", std::string(state_bytes, 'x'));
    return true;
  }();
  static_cast<void>(written);
  return folder.path();
}

std::optional<detail::Manifest> parse(const std::string& text) {
  try {
    return detail::parse_manifest(text, "manifest.json");
  } catch (const InputError& error) {
    require(std::string(error.what()).starts_with("manifest.json: error: "),
            std::string("an error without its file: ") + error.what());
    return std::nullopt;
  }
}

bool same_numbers(const std::map<std::string, double>& a, const std::map<std::string, double>& b) {
  if (a.size() != b.size()) return false;
  for (auto x = a.begin(), y = b.begin(); x != a.end(); ++x, ++y) {
    const bool both_nan = x->second != x->second && y->second != y->second;
    if (x->first != y->first ||
        (!both_nan && std::memcmp(&x->second, &y->second, sizeof x->second) != 0))
      return false;
  }
  return true;
}

void check_same(const detail::Manifest& a, const detail::Manifest& b) {
  require(a.meta.step == b.meta.step, "another step");
  require(a.meta.deck == b.meta.deck, "another deck");
  require(a.meta.counters == b.meta.counters, "other counters");
  require(a.meta.texts == b.meta.texts, "other texts");
  require(same_numbers(a.meta.numbers, b.meta.numbers), "other numbers");
  require(a.state_bytes == b.state_bytes && a.state_digest == b.state_digest, "another state");
  require(a.datasets.size() == b.datasets.size(), "another number of datasets");
  for (std::size_t i = 0; i < a.datasets.size(); ++i) {
    const detail::DatasetRecord &x = a.datasets[i], &y = b.datasets[i];
    require(x.name == y.name && x.shape == y.shape && x.dtype == y.dtype && x.offset == y.offset &&
                x.bytes == y.bytes && x.digest == y.digest,
            "another dataset");
  }
}

}  // namespace

void manifest(const std::uint8_t* data, std::size_t size) {
  std::string text(reinterpret_cast<const char*>(data), size);
  require(!parse(text), "a manifest without its digest is taken");
  text += ",\n ";
  text += "\"manifest_xxh3\": \"" + detail::hex(detail::xxh3(text.data(), text.size())) + "\"\n}\n";
  std::optional<detail::Manifest> first = parse(text);
  if (!first) return;
  const std::optional<detail::Manifest> second = parse(detail::manifest_text(*first));
  require(second.has_value(), "what was written is refused");
  check_same(*first, *second);

  // A file of the right size and another digest: where does the damage lie?
  first->state_bytes = state_bytes;
  if (first->datasets.size() > 4) first->datasets.resize(4);
  try {
    detail::verify_state(step_folder(), *first);
    broken("a wrong state file is taken");
  } catch (const detail::DamagedCheckpoint&) {
  }
}

}  // namespace kokomoe::fuzz
