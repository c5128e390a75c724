// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/data/sentences.hpp"

#include "data/text_file.hpp"
#include "io/digest.hpp"
#include "kokomoe/core/error.hpp"
#include "kokomoe/parallel/agree.hpp"

#include <charconv>
#include <cmath>
#include <optional>

namespace kokomoe {

const std::vector<SentenceFormat>& glue_formats() {
  static const std::vector<SentenceFormat> formats = {
      {"cola", false, "4", "", "2", {"0", "1"}},
      {"sst2", true, "sentence", "", "label", {"0", "1"}},
      {"mrpc", true, "#1 String", "#2 String", "Quality", {"0", "1"}},
      {"qqp", true, "question1", "question2", "is_duplicate", {"0", "1"}, true},
      {"stsb", true, "sentence1", "sentence2", "score", {}},
      {"mnli",
       true,
       "sentence1",
       "sentence2",
       "gold_label",
       {"contradiction", "entailment", "neutral"}},
      {"qnli", true, "question", "sentence", "label", {"not_entailment", "entailment"}},
      {"rte", true, "sentence1", "sentence2", "label", {"not_entailment", "entailment"}},
      {"wnli", true, "sentence1", "sentence2", "label", {"0", "1"}}};
  return formats;
}

SentenceFormat without_labels(SentenceFormat format) {
  if (format.name == "cola") {
    format.header = true;
    format.first = "sentence";
  }
  format.label = "";
  format.leaves_out_broken_rows = false;
  return format;
}

namespace {

/// Reads one file of a table, line by line.
class Reader {
 public:
  Reader(std::string_view text, const std::string& name, const SentenceFormat& format)
      : text_(text), name_(name), format_(format) {
    if (text_.starts_with("\xEF\xBB\xBF")) text_.remove_prefix(3);
  }

  void read(SentenceTable& table) {
    if (format_.header) {
      if (!next_line()) refuse("no line with the columns' names");
      for (const std::string_view field : fields_) columns_.emplace_back(field);
    }
    first_ = column(format_.first);
    second_ = format_.second.empty() ? 0 : column(format_.second);
    label_ = format_.label.empty() ? 0 : column(format_.label);
    while (next_line()) add(table);
  }

 private:
  [[noreturn]] void refuse(const std::string& message) const {
    throw InputError(name_ + ":" + std::to_string(line_) + ": error: " + message);
  }

  bool next_line() {
    if (text_.empty()) return false;
    ++line_;
    const std::size_t end = text_.find('\n');
    std::string_view line = text_.substr(0, end);
    text_.remove_prefix(end == text_.npos ? text_.size() : end + 1);
    if (line.ends_with('\r')) line.remove_suffix(1);
    fields_.clear();
    for (std::size_t begin = 0; begin <= line.size();) {
      const std::size_t tab = std::min(line.find('\t', begin), line.size());
      fields_.push_back(line.substr(begin, tab - begin));
      begin = tab + 1;
    }
    return true;
  }

  /// Index of a column; without a header its number says it.
  std::size_t column(const std::string& name) const {
    if (!format_.header) {
      std::size_t number = 0;
      const auto [end, code] = std::from_chars(name.data(), name.data() + name.size(), number);
      if (code != std::errc() || end != name.data() + name.size() || number == 0)
        throw InputError(name_ + ": error: without a header columns are called 1, 2, ..., not \"" +
                         name + "\"");
      return number - 1;
    }
    std::string all;
    for (std::size_t i = 0; i < columns_.size(); ++i) {
      if (columns_[i] == name) return i;
      all += (i > 0 ? ", \"" : "\"") + columns_[i] + "\"";
    }
    refuse("no column \"" + name + "\": there are " + all);
  }

  void add(SentenceTable& table) const {
    const std::size_t last = std::max({first_, second_, label_});
    const bool is_short = fields_.size() <= last;
    if (format_.leaves_out_broken_rows && (is_short || has_empty_sentence())) {
      ++table.left_out;
      return;
    }
    if (is_short)
      refuse(std::to_string(fields_.size()) + " column(s), " + std::to_string(last + 1) +
             " are wanted");
    if (!format_.label.empty()) {
      const std::string label(fields_[label_]);
      if (format_.labels.empty())
        table.numbers.push_back(number(label));
      else
        table.labels.push_back(class_of(label));
    }
    table.first.push_back(sentence(first_));
    if (!format_.second.empty()) table.second.push_back(sentence(second_));
  }

  bool is_empty(std::size_t column) const {
    return fields_[column].find_first_not_of(" \t") == std::string_view::npos;
  }

  bool has_empty_sentence() const {
    return is_empty(first_) || (!format_.second.empty() && is_empty(second_));
  }

  std::string sentence(std::size_t column) const {
    if (!is_empty(column)) return std::string(fields_[column]);
    // Rows without labels want an answer, each of them.
    if (format_.label.empty()) return "";
    refuse("column " + std::to_string(column + 1) + " has no sentence");
  }

  double number(const std::string& text) const {
    double value = 0;
    const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (code != std::errc() || end != text.data() + text.size() || !std::isfinite(value))
      refuse("label \"" + text + "\" is not a number");
    return value;
  }

  int class_of(const std::string& text) const {
    std::string all;
    for (std::size_t c = 0; c < format_.labels.size(); ++c) {
      if (format_.labels[c] == text) return static_cast<int>(c);
      all += (c > 0 ? ", \"" : "\"") + format_.labels[c] + "\"";
    }
    refuse("label \"" + text + "\" is none of " + all);
  }

  std::string_view text_;
  std::string name_;
  const SentenceFormat& format_;
  std::vector<std::string> columns_;
  std::vector<std::string_view> fields_;
  std::size_t first_ = 0, second_ = 0, label_ = 0;
  std::size_t line_ = 0;
};

[[noreturn]] void refuse_empty(const std::vector<std::string>& files, const SentenceTable& table) {
  std::string message;
  for (const std::string& file : files) message += (message.empty() ? "" : ", ") + file;
  message += ": error: no rows of sentences";
  if (table.left_out > 0)
    message += "; " + std::to_string(table.left_out) + " incomplete row(s) left out";
  throw InputError(message);
}

}  // namespace

void read_sentences(std::string_view text, const std::string& name, const SentenceFormat& format,
                    bool utf8, SentenceTable& table) {
  if (utf8) detail::require_utf8(name, text);
  Reader(text, name, format).read(table);
}

SentenceTable read_tables(const std::vector<std::string>& files, const SentenceFormat& format,
                          bool utf8, const Communicator& communicator) {
  SentenceTable table;
  for (const std::string& file : files) {
    std::string text;
    run_on_root(communicator, [&] { text = std::string(detail::open_text(file).text()); });
    text = communicator.broadcast(text);
    read_sentences(text, file, format, utf8, table);
  }
  if (table.first.empty()) refuse_empty(files, table);
  return table;
}

SentenceCorpus SentenceCorpus::open(const std::vector<std::string>& files,
                                    const SentenceFormat& format, const Tokenizer& tokenizer,
                                    const Communicator& communicator) {
  return SentenceCorpus(read_tables(files, format, tokenizer.needs_utf8(), communicator),
                        tokenizer);
}

SentenceCorpus::SentenceCorpus(const SentenceTable& table, const Tokenizer& tokenizer)
    : starts_{0},
      labels_(table.labels),
      numbers_(table.numbers),
      pairs_(!table.second.empty()),
      left_out_(table.left_out) {
  const auto add = [&](const std::string& text) {
    const std::vector<int> ids = tokenizer.encode(text);
    ids_.insert(ids_.end(), ids.begin(), ids.end());
    starts_.push_back(ids_.size());
  };
  for (std::size_t i = 0; i < table.first.size(); ++i) {
    add(table.first[i]);
    if (pairs_)
      add(table.second[i]);
    else
      starts_.push_back(ids_.size());
  }
  detail::StreamDigest digest;
  digest.add(ids_.data(), ids_.size() * sizeof(int));
  digest.add(starts_.data(), starts_.size() * sizeof(std::size_t));
  digest.add(labels_.data(), labels_.size() * sizeof(int));
  digest.add(numbers_.data(), numbers_.size() * sizeof(double));
  key_ = digest.value();
}

}  // namespace kokomoe
