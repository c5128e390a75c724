// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace kokomoe::detail {

/// XXH3-64 of `bytes` bytes.
std::uint64_t xxh3(const void* data, std::size_t bytes);

/// XXH3-64 of what comes in pieces.
class StreamDigest {
 public:
  StreamDigest();
  ~StreamDigest();
  StreamDigest(const StreamDigest&) = delete;
  StreamDigest& operator=(const StreamDigest&) = delete;
  void add(const void* data, std::size_t bytes);
  std::uint64_t value() const;
  /// Forgets all bytes.
  void reset();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

struct FileDigest {
  std::uint64_t bytes = 0;
  std::uint64_t digest = 0;
};

/// Size and digest of `bytes` bytes of a file from `offset` on (or up to its end). Throws Error.
FileDigest digest_file(const std::string& path, std::uint64_t offset = 0,
                       std::uint64_t bytes = UINT64_MAX);

/// Some of a file's bytes and, once found, their digest.
struct FilePart {
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
  std::uint64_t digest = 0;
};

/// Size and digest of a whole file and, in the same pass, the digests of its parts. Each list in
/// the order of offsets, without overlaps. Throws Error, also when a part lies past the end.
FileDigest digest_file_parts(const std::string& path,
                             const std::vector<std::vector<FilePart>*>& lists);

/// 16 hexadecimal digits.
std::string hex(std::uint64_t value);
/// Reverse of hex; false when `text` is anything else.
bool parse_hex(const std::string& text, std::uint64_t& value);

}  // namespace kokomoe::detail
