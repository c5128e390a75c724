// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "data/training_lines.hpp"

#include <algorithm>

namespace kokomoe::detail {

TrainingLines::TrainingLines(const std::vector<std::string>& files, TextForm form,
                             std::int64_t most)
    : files_(files), form_(form) {
  for (const std::string& path : files) maps_.push_back(open_text(path));
  for (std::string_view line; next_of_all(line);) ++lines_;
  taken_ = most == 0 ? lines_ : std::min(lines_, static_cast<std::uint64_t>(most));
  rewind();
}

void TrainingLines::rewind() {
  map_ = at_ = 0;
  share_ = 0;
}

void TrainingLines::require_utf8() const {
  for (std::size_t f = 0; f < files_.size(); ++f) detail::require_utf8(files_[f], maps_[f].text());
}

bool TrainingLines::next_of_all(std::string_view& line) {
  while (map_ < maps_.size()) {
    const std::string_view bytes = maps_[map_].text();
    const std::string_view text = form_ == TextForm::lines ? without_mark(bytes) : bytes;
    if (at_ >= text.size()) {
      ++map_;
      at_ = 0;
      continue;
    }
    const std::size_t end = std::min(text.find('\n', at_), text.size());
    line = text.substr(at_, end - at_);
    at_ = end + 1;
    if (form_ == TextForm::lines && line.ends_with('\r')) line.remove_suffix(1);
    if (!line.empty()) return true;
  }
  return false;
}

bool TrainingLines::next(std::string_view& line) {
  while (next_of_all(line)) {
    share_ += taken_;
    if (share_ < lines_) continue;
    share_ -= lines_;
    return true;
  }
  return false;
}

}  // namespace kokomoe::detail
