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
  reset();
}
StreamDigest::~StreamDigest() = default;

void StreamDigest::reset() {
  XXH3_64bits_reset(state_->state);
}

void StreamDigest::add(const void* data, std::size_t bytes) {
  // An empty vector's data() may be null, which XXH3 takes for an error.
  if (bytes > 0) XXH3_64bits_update(state_->state, data, bytes);
}

std::uint64_t StreamDigest::value() const {
  return XXH3_64bits_digest(state_->state);
}

namespace {

/// Calls `take` with the file's bytes [offset, offset + bytes), piece by piece. Their number.
template <class Take>
std::uint64_t read_through(const std::string& path, std::uint64_t offset, std::uint64_t bytes,
                           const Take& take) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) fail(path, std::string("cannot be read: ") + std::strerror(errno));
  std::uint64_t done = 0;
  std::vector<char> part(std::size_t(4) << 20);
  while (done < bytes) {
    const std::size_t wanted = std::min<std::uint64_t>(part.size(), bytes - done);
    const ssize_t got = ::pread(file, part.data(), wanted, static_cast<off_t>(offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      const int code = errno;
      ::close(file);
      fail(path, std::string("cannot be read: ") + std::strerror(code));
    }
    if (got == 0) break;
    take(part.data(), static_cast<std::size_t>(got));
    done += static_cast<std::uint64_t>(got);
  }
  ::close(file);
  return done;
}

/// Follows the parts of one list through the file.
class PartWalk {
 public:
  explicit PartWalk(std::vector<FilePart>& parts) : parts_(parts) { end_parts(0); }

  void add(std::uint64_t offset, const char* data, std::size_t bytes) {
    const std::uint64_t end = offset + bytes;
    while (next_ < parts_.size() && parts_[next_].offset < end) {
      const FilePart& part = parts_[next_];
      const std::uint64_t from = std::max(offset, part.offset);
      const std::uint64_t to = std::min(end, part.offset + part.bytes);
      digest_.add(data + (from - offset), static_cast<std::size_t>(to - from));
      if (to < part.offset + part.bytes) return;
      end_parts(to);
    }
  }
  bool done() const { return next_ == parts_.size(); }

 private:
  /// Parts without bytes end where they begin.
  void end_parts(std::uint64_t at) {
    while (next_ < parts_.size() && parts_[next_].offset + parts_[next_].bytes <= at) {
      parts_[next_++].digest = digest_.value();
      digest_.reset();
    }
  }

  std::vector<FilePart>& parts_;
  std::size_t next_ = 0;
  StreamDigest digest_;
};

}  // namespace

FileDigest digest_file(const std::string& path, std::uint64_t offset, std::uint64_t bytes) {
  StreamDigest digest;
  FileDigest result;
  result.bytes = read_through(
      path, offset, bytes, [&](const char* data, std::size_t count) { digest.add(data, count); });
  result.digest = digest.value();
  return result;
}

FileDigest digest_file_parts(const std::string& path,
                             const std::vector<std::vector<FilePart>*>& lists) {
  std::vector<std::unique_ptr<PartWalk>> walks;
  for (std::vector<FilePart>* list : lists) walks.push_back(std::make_unique<PartWalk>(*list));
  StreamDigest digest;
  FileDigest result;
  read_through(path, 0, UINT64_MAX, [&](const char* data, std::size_t count) {
    digest.add(data, count);
    for (const auto& walk : walks) walk->add(result.bytes, data, count);
    result.bytes += count;
  });
  result.digest = digest.value();
  for (const auto& walk : walks)
    if (!walk->done()) fail(path, "is shorter than what was written to it");
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
