// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/data/corpus.hpp"

#include "data/text_file.hpp"
#include "io/digest.hpp"
#include "io/files.hpp"
#include "kokomoe/core/error.hpp"
#include "kokomoe/parallel/agree.hpp"

#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <utility>

namespace kokomoe {

namespace {

namespace fs = std::filesystem;

constexpr char magic[8] = {'K', 'O', 'K', 'O', 'T', 'O', 'K', '\n'};
constexpr std::uint32_t cache_version = 1;

/// First 64 bytes of a cache file; tokens follow, little-endian as on every machine that runs this.
struct Header {
  char magic_text[8];
  std::uint32_t version;
  std::uint32_t token_bytes;  ///< 2 or 4
  std::uint64_t tokens;
  std::uint64_t text_bytes;
  std::uint64_t key;     ///< XXH3 of contents and tokenizer
  std::uint64_t digest;  ///< XXH3 of the tokens
  std::uint32_t vocabulary;
  std::int32_t beginning_of_text;
  std::uint64_t header_digest;  ///< XXH3 of what is above
};
static_assert(sizeof(Header) == 64);

std::uint64_t header_digest(const Header& header) {
  return detail::xxh3(&header, offsetof(Header, header_digest));
}

std::uint32_t token_width(const Tokenizer& tokenizer) {
  return tokenizer.vocabulary() <= 65536 ? 2 : 4;
}

/// What names a cache: contents and their borders, and how they are encoded.
std::uint64_t cache_key(const std::vector<std::string>& files, const Tokenizer& tokenizer,
                        TextForm form) {
  detail::StreamDigest digest;
  const std::string identity = tokenizer.identity();
  digest.add(identity.data(), identity.size());
  for (const std::string& path : files) {
    const detail::MappedFile file = detail::open_text(path);
    const std::uint64_t size = file.size();
    const std::string other_form = detail::differs_in_form(file.text(), form) ? "lines/" : "";
    digest.add(other_form.data(), other_form.size());
    digest.add(&size, sizeof size);
    digest.add(file.data(), file.size());
  }
  return digest.value();
}

class CacheWriter {
 public:
  CacheWriter(const std::string& path, std::uint32_t token_bytes)
      : path_(path), file_(path, std::ios::binary | std::ios::trunc), token_bytes_(token_bytes) {
    if (!file_.is_open())
      throw InputError(path + ": error: cannot be written: " + std::strerror(errno));
    const Header blank{};
    file_.write(reinterpret_cast<const char*>(&blank), sizeof blank);
  }
  void add(const std::vector<int>& ids) {
    packed_.resize(ids.size() * token_bytes_);
    for (std::size_t i = 0; i < ids.size(); ++i) {
      const auto id = static_cast<std::uint32_t>(ids[i]);
      std::memcpy(packed_.data() + i * token_bytes_, &id, token_bytes_);
    }
    digest_.add(packed_.data(), packed_.size());
    file_.write(packed_.data(), static_cast<std::streamsize>(packed_.size()));
    tokens_ += ids.size();
  }
  void finish(Header header) {
    std::memcpy(header.magic_text, magic, sizeof magic);
    header.version = cache_version;
    header.token_bytes = token_bytes_;
    header.tokens = tokens_;
    header.digest = digest_.value();
    header.header_digest = header_digest(header);
    file_.seekp(0);
    file_.write(reinterpret_cast<const char*>(&header), sizeof header);
    file_.close();
    if (!file_) fail(path_, "cannot be written: is the disk full?");
  }

 private:
  std::string path_;
  std::ofstream file_;
  std::uint32_t token_bytes_;
  std::vector<char> packed_;
  detail::StreamDigest digest_;
  std::uint64_t tokens_ = 0;
};

void make_cache(const std::string& path, const std::vector<std::string>& files,
                const Tokenizer& tokenizer, TextForm form, std::uint64_t key) {
  const std::string aside = path + "." + std::to_string(::getpid()) + ".tmp";
  try {
    CacheWriter writer(aside, token_width(tokenizer));
    Header header{};
    header.key = key;
    header.vocabulary = static_cast<std::uint32_t>(tokenizer.vocabulary());
    header.beginning_of_text = tokenizer.beginning_of_text();
    for (const std::string& name : files) {
      const detail::MappedFile file = detail::open_text(name);
      if (tokenizer.needs_utf8()) detail::require_utf8(name, file.text());
      writer.add({tokenizer.beginning_of_text()});
      // In pieces that end with a line, so that memory stays small.
      const bool differs = detail::differs_in_form(file.text(), form);
      std::string_view rest = differs ? detail::without_mark(file.text()) : file.text();
      while (!rest.empty()) {
        constexpr std::size_t piece = std::size_t(1) << 20;
        const auto newline = rest.size() <= piece ? rest.npos : rest.find('\n', piece);
        const std::size_t end = newline == rest.npos ? rest.size() : newline + 1;
        const std::string kept = differs ? detail::without_returns(rest.substr(0, end)) : "";
        const std::string_view lines = differs ? std::string_view(kept) : rest.substr(0, end);
        writer.add(tokenizer.encode(lines));
        header.text_bytes += lines.size();
        rest.remove_prefix(end);
      }
    }
    writer.finish(header);
    fs::rename(aside, path);
  } catch (...) {
    std::error_code code;
    fs::remove(aside, code);
    throw;
  }
}

/// "" when the mapped file is the cache that `key` names, or what is wrong.
std::string problem_of(const detail::MappedFile& file, std::uint64_t key, bool deep) {
  if (file.size() < sizeof(Header)) return "it is too short";
  Header header;
  std::memcpy(&header, file.data(), sizeof header);
  if (std::memcmp(header.magic_text, magic, sizeof magic) != 0) return "it is no token file";
  if (header.version != cache_version) return "its version is another";
  if (header.header_digest != header_digest(header)) return "its header is damaged";
  if (header.key != key) return "it is of another text or tokenizer";
  const std::size_t bytes = file.size() - sizeof header;
  if ((header.token_bytes != 2 && header.token_bytes != 4) ||
      bytes / header.token_bytes != header.tokens || bytes % header.token_bytes != 0)
    return "its size is wrong";
  if (deep && detail::xxh3(file.data() + sizeof header, bytes) != header.digest)
    return "its tokens are damaged";
  return "";
}

}  // namespace

struct Corpus::State {
  std::string path;
  bool reused = false;
  detail::MappedFile file;
  Header header{};
  std::vector<int> bytes_of;

  std::uint32_t token(std::size_t index) const {
    const char* const data = file.data() + sizeof(Header);
    std::uint32_t wide = 0;
    if (header.token_bytes == 2) {
      std::uint16_t narrow = 0;
      std::memcpy(&narrow, data + 2 * index, 2);
      wide = narrow;
    } else {
      std::memcpy(&wide, data + 4 * index, 4);
    }
    // The file may change while it is mapped: kernels must never see a token out of range.
    if (wide >= header.vocabulary) fail(path, "token " + std::to_string(index) + " is damaged");
    return wide;
  }
};

Corpus::Corpus(std::shared_ptr<const State> state) : state_(std::move(state)) {}

Corpus Corpus::open(const std::vector<std::string>& files, const Tokenizer& tokenizer,
                    const std::string& cache_folder, const Communicator& communicator,
                    TextForm form) {
  if (files.empty()) throw InputError("no text files given");
  struct {
    std::uint64_t key = 0;
    std::uint64_t reused = 0;
  } found;
  const auto path_of = [&](std::uint64_t key) {
    return cache_folder + "/tokens-" + detail::hex(key) + ".bin";
  };
  run_on_root(communicator, [&] {
    found.key = cache_key(files, tokenizer, form);
    const std::string path = path_of(found.key);
    std::error_code ignored;
    found.reused = fs::is_regular_file(path, ignored) &&
                   problem_of(detail::MappedFile(path), found.key, true).empty();
    if (found.reused != 0) return;  // even from a folder that cannot be written to
    detail::make_writable_folder(cache_folder, "cache folder");
    make_cache(path, files, tokenizer, form, found.key);
  });
  communicator.broadcast(&found, sizeof found);

  auto state = std::make_shared<State>();
  run_on_all(communicator, [&] {
    state->path = path_of(found.key);
    state->reused = found.reused != 0;
    state->file = detail::MappedFile(state->path);
    const std::string problem = problem_of(state->file, found.key, false);
    if (!problem.empty()) fail(state->path, "the cached tokens cannot be used: " + problem);
    std::memcpy(&state->header, state->file.data(), sizeof(Header));
    state->bytes_of.resize(state->header.vocabulary);
    for (std::size_t id = 0; id < state->bytes_of.size(); ++id)
      state->bytes_of[id] = tokenizer.bytes_of(static_cast<int>(id));
  });
  return Corpus(std::move(state));
}

std::size_t Corpus::size() const {
  return state_->header.tokens;
}
std::int64_t Corpus::text_bytes() const {
  return static_cast<std::int64_t>(state_->header.text_bytes);
}
int Corpus::vocabulary() const {
  return static_cast<int>(state_->header.vocabulary);
}
int Corpus::beginning_of_text() const {
  return state_->header.beginning_of_text;
}

int Corpus::operator[](std::size_t index) const {
  if (index >= size()) fail(state_->path, "token " + std::to_string(index) + " is past the end");
  return static_cast<int>(state_->token(index));
}

void Corpus::copy(std::size_t begin, std::size_t count, int* out) const {
  if (begin > size() || count > size() - begin)
    fail(state_->path, "tokens " + std::to_string(begin) + " to " + std::to_string(begin + count) +
                           " are past the end, " + std::to_string(size()));
  for (std::size_t i = 0; i < count; ++i) out[i] = static_cast<int>(state_->token(begin + i));
}

int Corpus::bytes_of(int id) const {
  return id >= 0 && id < vocabulary() ? state_->bytes_of[static_cast<std::size_t>(id)] : 0;
}

std::uint64_t Corpus::key() const {
  return state_->header.key;
}
const std::string& Corpus::path() const {
  return state_->path;
}
bool Corpus::reused() const {
  return state_->reused;
}

}  // namespace kokomoe
