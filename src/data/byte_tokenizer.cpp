// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "data/tokenizers.hpp"

namespace kokomoe::detail {

namespace {

class ByteTokenizer final : public Tokenizer {
 public:
  int vocabulary() const override { return 257; }
  int beginning_of_text() const override { return 256; }
  std::vector<int> encode(std::string_view text) const override {
    std::vector<int> ids(text.size());
    for (std::size_t i = 0; i < text.size(); ++i) ids[i] = static_cast<unsigned char>(text[i]);
    return ids;
  }
  std::string decode(std::span<const int> ids) const override {
    std::string text;
    text.reserve(ids.size());
    for (const int id : ids)
      if (id >= 0 && id < 256) text += static_cast<char>(id);
    return text;
  }
  std::string name() const override { return "bytes"; }
  std::string identity() const override { return "bytes/1"; }
  int bytes_of(int id) const override { return id >= 0 && id < 256 ? 1 : 0; }
  bool needs_utf8() const override { return false; }
  std::string serialized() const override { return ""; }
};

}  // namespace

std::shared_ptr<const Tokenizer> byte_tokenizer() {
  return std::make_shared<ByteTokenizer>();
}

}  // namespace kokomoe::detail
