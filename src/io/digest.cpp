// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "io/digest.hpp"

#include "kokomoe/core/error.hpp"

#ifndef XXH_INLINE_ALL
#define XXH_INLINE_ALL
#endif
#include <xxhash.h>

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

namespace kokomoe::detail {

std::uint64_t xxh3(const void* data, std::size_t bytes) {
  return XXH3_64bits(data, bytes);
}

struct StreamDigest::State {
  XXH3_state_t* state = XXH3_createState();
  ~State() { XXH3_freeState(state); }
};

StreamDigest::StreamDigest() : state_(std::make_unique<State>()) {
  XXH3_64bits_reset(state_->state);
}
StreamDigest::~StreamDigest() = default;

void StreamDigest::add(const void* data, std::size_t bytes) {
  // An empty vector's data() may be null, which XXH3 takes for an error.
  if (bytes > 0) XXH3_64bits_update(state_->state, data, bytes);
}

std::uint64_t StreamDigest::value() const {
  return XXH3_64bits_digest(state_->state);
}

FileDigest digest_file(const std::string& path, std::uint64_t offset, std::uint64_t bytes) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) fail(path, std::string("cannot be read: ") + std::strerror(errno));
  StreamDigest digest;
  FileDigest result;
  std::vector<char> part(std::size_t(4) << 20);
  while (result.bytes < bytes) {
    const std::size_t wanted = std::min<std::uint64_t>(part.size(), bytes - result.bytes);
    const ssize_t got =
        ::pread(file, part.data(), wanted, static_cast<off_t>(offset + result.bytes));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      const int code = errno;
      ::close(file);
      fail(path, std::string("cannot be read: ") + std::strerror(code));
    }
    if (got == 0) break;
    digest.add(part.data(), static_cast<std::size_t>(got));
    result.bytes += static_cast<std::uint64_t>(got);
  }
  ::close(file);
  result.digest = digest.value();
  return result;
}

std::string hex(std::uint64_t value) {
  std::string text(16, '0');
  for (int i = 15; i >= 0; --i, value >>= 4)
    text[static_cast<std::size_t>(i)] = "0123456789abcdef"[value & 15];
  return text;
}

bool parse_hex(const std::string& text, std::uint64_t& value) {
  if (text.size() != 16) return false;
  value = 0;
  for (const char c : text) {
    const char* const digits = "0123456789abcdef";
    const char* const at = std::strchr(digits, c);
    if (c == '\0' || at == nullptr) return false;
    value = value << 4 | static_cast<std::uint64_t>(at - digits);
  }
  return true;
}

}  // namespace kokomoe::detail
