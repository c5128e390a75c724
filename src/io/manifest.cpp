// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "io/manifest.hpp"

#include "io/digest.hpp"
#include "io/files.hpp"
#include "kokomoe/config.hpp"

#include <nlohmann/json.hpp>

#include <cmath>
#include <filesystem>
#include <limits>

namespace kokomoe::detail {

namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t largest_manifest = std::size_t(64) << 20;
const std::string digest_key = "\"manifest_xxh3\": \"";
const std::string ending = "\"\n}\n";

// JSON has no NaN and no infinities.
Json number_json(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  return value;
}

// For reading: looking up a key takes no walk over all of them.
using Parsed = nlohmann::json;

// JSON's numbers are any; conversions would cut or wrap them.
std::uint64_t natural_from(const Parsed& json) {
  if (!json.is_number_unsigned()) throw InputError(json.dump() + " is no natural number");
  return json.get<std::uint64_t>();
}

std::int64_t integer_from(const Parsed& json) {
  if (json.is_number_integer() && !json.is_number_unsigned()) return json.get<std::int64_t>();
  const std::uint64_t value = natural_from(json);
  if (value > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
    throw InputError(std::to_string(value) + " is too large");
  return static_cast<std::int64_t>(value);
}

double number_from(const Parsed& json) {
  if (json.is_number()) return json.get<double>();
  const std::string text = json.get<std::string>();
  if (text == "nan") return std::numeric_limits<double>::quiet_NaN();
  if (text == "inf") return std::numeric_limits<double>::infinity();
  if (text == "-inf") return -std::numeric_limits<double>::infinity();
  throw InputError("\"" + text + "\" is no number");
}

// JSON text is UTF-8: bytes go as pairs of hexadecimal digits.
Json bytes_json(const std::string& bytes) {
  constexpr char digits[] = "0123456789abcdef";
  std::string text;
  text.reserve(2 * bytes.size());
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    text += digits[byte >> 4];
    text += digits[byte & 15];
  }
  return text;
}

std::string bytes_from(const Parsed& json) {
  const std::string text = json.get<std::string>();
  const auto digit = [&](char c) -> int {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    throw InputError("a text is not hexadecimal");
  };
  if (text.size() % 2 != 0) throw InputError("a text is not hexadecimal");
  std::string bytes;
  bytes.reserve(text.size() / 2);
  for (std::size_t i = 0; i < text.size(); i += 2)
    bytes += static_cast<char>(16 * digit(text[i]) + digit(text[i + 1]));
  return bytes;
}

std::uint64_t digest_from(const Parsed& json) {
  std::uint64_t value = 0;
  if (!parse_hex(json.get<std::string>(), value)) throw InputError("a digest is no 16 digits");
  return value;
}

Manifest from_json(const Parsed& json) {
  Manifest manifest;
  if (json.at("format") != "kokomoe checkpoint") throw InputError("another program's file");
  const auto version = integer_from(json.at("format_version"));
  if (version < 1 || version > checkpoint_format)
    throw InputError("format version " + std::to_string(version) +
                     ", but this Kokomoe reads 1 to " + std::to_string(checkpoint_format));
  manifest.meta.step = integer_from(json.at("step"));
  if (manifest.meta.step < 0) throw InputError("a negative step");
  manifest.meta.deck = json.at("deck").get<std::string>();
  for (const auto& [name, value] : json.at("counters").items())
    manifest.meta.counters[name] = integer_from(value);
  for (const auto& [name, value] : json.at("numbers").items())
    manifest.meta.numbers[name] = number_from(value);
  for (const auto& [name, value] : json.at("texts").items())
    manifest.meta.texts[name] = bytes_from(value);
  manifest.state_bytes = natural_from(json.at("state").at("bytes"));
  manifest.state_digest = digest_from(json.at("state").at("xxh3"));
  for (const Parsed& entry : json.at("datasets")) {
    DatasetRecord record;
    record.name = entry.at("name").get<std::string>();
    for (const Parsed& extent : entry.at("shape")) record.shape.push_back(natural_from(extent));
    record.dtype = entry.at("dtype").get<std::string>();
    record.offset = natural_from(entry.at("offset"));
    record.bytes = natural_from(entry.at("bytes"));
    record.digest = digest_from(entry.at("xxh3"));
    manifest.datasets.push_back(std::move(record));
  }
  return manifest;
}

}  // namespace

std::string manifest_text(const Manifest& manifest) {
  Json json;
  json["format"] = "kokomoe checkpoint";
  json["format_version"] = checkpoint_format;
  json["step"] = manifest.meta.step;
  json["versions"] = {{"kokomoe", version()}, {"git", git_describe()}};
  json["counters"] = Json::object();
  for (const auto& [name, value] : manifest.meta.counters) json["counters"][name] = value;
  json["texts"] = Json::object();
  for (const auto& [name, value] : manifest.meta.texts) json["texts"][name] = bytes_json(value);
  json["numbers"] = Json::object();
  for (const auto& [name, value] : manifest.meta.numbers)
    json["numbers"][name] = number_json(value);
  json["deck"] = manifest.meta.deck;
  json["state"] = {
      {"file", "state.h5"}, {"bytes", manifest.state_bytes}, {"xxh3", hex(manifest.state_digest)}};
  json["datasets"] = Json::array();
  for (const DatasetRecord& record : manifest.datasets)
    json["datasets"].push_back({{"name", record.name},
                                {"shape", record.shape},
                                {"dtype", record.dtype},
                                {"offset", record.offset},
                                {"bytes", record.bytes},
                                {"xxh3", hex(record.digest)}});
  // A deck with broken UTF-8 must not stop a save.
  std::string text = json.dump(1, ' ', false, Json::error_handler_t::replace);
  text.resize(text.size() - 2);  // "\n}"
  text += ",\n ";
  const std::string digest = hex(xxh3(text.data(), text.size()));
  return text + digest_key + digest + ending;
}

Manifest parse_manifest(const std::string& text, const std::string& path) {
  const std::size_t tail = digest_key.size() + 16 + ending.size();
  const std::string where = path + ": error: ";
  if (text.size() < tail)
    throw DamagedCheckpoint(where + "damaged: only " + std::to_string(text.size()) + " bytes");
  const std::size_t body = text.size() - tail;
  const std::string digest = hex(xxh3(text.data(), body));
  if (text.compare(body, tail, digest_key + digest + ending) != 0)
    throw DamagedCheckpoint(where + "damaged: its text does not have the digest that it ends with");
  try {
    return from_json(Parsed::parse(text));
  } catch (const Parsed::exception& error) {
    throw DamagedCheckpoint(where + error.what());
  } catch (const InputError& error) {
    throw InputError(where + error.what());
  }
}

std::string read_manifest_text(const std::string& step_folder) {
  const std::string path = step_folder + "/manifest.json";
  std::error_code code;
  if (!std::filesystem::is_directory(step_folder, code))
    throw InputError(step_folder + ": error: checkpoint folder not found");
  try {
    return read_input_file(path, "manifest", largest_manifest);
  } catch (const InputError& error) {
    throw DamagedCheckpoint(error.what());
  }
}

void verify_state(const std::string& step_folder, const Manifest& manifest) {
  const std::string path = step_folder + "/state.h5";
  std::error_code code;
  if (!std::filesystem::is_regular_file(path, code))
    throw DamagedCheckpoint(path + ": error: file not found");
  const std::uint64_t size = std::filesystem::file_size(path, code);
  if (code || size != manifest.state_bytes)
    throw DamagedCheckpoint(path + ": error: damaged: " + std::to_string(size) +
                            " bytes, but the manifest says " +
                            std::to_string(manifest.state_bytes));
  if (digest_file(path).digest == manifest.state_digest) return;
  // Where? Only the file's bytes are read: HDF5 never sees a damaged file.
  std::string datasets;
  int more = 0;
  for (const DatasetRecord& record : manifest.datasets) {
    const bool inside = record.offset <= size && record.bytes <= size - record.offset;
    if (inside && digest_file(path, record.offset, record.bytes).digest == record.digest) continue;
    if (datasets.size() > 300)
      ++more;
    else
      datasets += (datasets.empty() ? "/" : ", /") + record.name;
  }
  if (more > 0) datasets += " and " + std::to_string(more) + " more";
  throw DamagedCheckpoint(path + ": error: damaged: the digest is not the manifest's; " +
                          (datasets.empty() ? "no tensor's data, but what describes them"
                                            : "damage lies in " + datasets));
}

bool is_whole(const std::string& step_folder) {
  try {
    const std::string text = read_manifest_text(step_folder);
    verify_state(step_folder, parse_manifest(text, step_folder));
    return true;
  } catch (const Error&) {
    return false;
  }
}

std::string shape_text(const std::vector<std::size_t>& shape) {
  std::string text = "(";
  for (std::size_t i = 0; i < shape.size(); ++i)
    text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  return text + ")";
}

}  // namespace kokomoe::detail
