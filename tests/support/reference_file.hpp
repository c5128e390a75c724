// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause

/// Reads the .kkref files of tests/reference (written by kkref.py there): named arrays,
/// little-endian, C order. "KKREF1\n", then records "name dtype d0 d1 ...\n" + raw bytes.

#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <ios>
#include <limits>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace kokomoe::testing {

class ReferenceFile {
 public:
  explicit ReferenceFile(std::string path) : m_path(std::move(path)) {
    static_assert(std::endian::native == std::endian::little, "the file is little-endian");
    std::ifstream file(m_path, std::ios::binary);
    if (!file) throw std::runtime_error(m_path + ": cannot be opened");
    std::string line;
    if (!std::getline(file, line) || line != "KKREF1") {
      throw std::runtime_error(m_path + ": not a KKREF1 file");
    }
    while (std::getline(file, line)) read_record(file, line);
  }

  const std::string& path() const { return m_path; }

  bool has(const std::string& name) const { return m_records.count(name) != 0; }

  /// Every record, in alphabetical order; with a prefix, those that begin with it.
  std::vector<std::string> names(const std::string& prefix = {}) const {
    std::vector<std::string> result;
    for (const auto& [name, record] : m_records) {
      if (name.compare(0, prefix.size(), prefix) == 0) result.push_back(name);
    }
    return result;
  }

  /// "f8", "f4", "i4" or "i8".
  const std::string& type(const std::string& name) const { return find(name).type; }

  /// Empty for a scalar.
  const std::vector<std::size_t>& shape(const std::string& name) const { return find(name).shape; }

  /// f4 and f8, widened.
  std::vector<double> f8(const std::string& name) const { return real<double>(name); }

  /// f4 only; real<float> narrows f8.
  std::vector<float> f4(const std::string& name) const {
    if (find(name).type != "f4") fail(name, "has type " + find(name).type + ", not f4");
    return real<float>(name);
  }

  /// f4 and f8 as Real.
  template <class Real>
  std::vector<Real> real(const std::string& name) const {
    const Record& record = find(name);
    if (record.type == "f8") return convert<double, Real>(record);
    if (record.type == "f4") return convert<float, Real>(record);
    fail(name, "has type " + record.type + ", not f4 or f8");
  }

  /// i4 and i8, widened.
  std::vector<std::int64_t> i8(const std::string& name) const {
    const Record& record = find(name);
    if (record.type == "i8") return convert<std::int64_t, std::int64_t>(record);
    if (record.type == "i4") return convert<std::int32_t, std::int64_t>(record);
    fail(name, "has type " + record.type + ", not i4 or i8");
  }

  /// i4 and i8, narrowed; a value that does not fit is an error.
  std::vector<int> i4(const std::string& name) const {
    std::vector<int> result;
    for (const std::int64_t value : i8(name)) {
      if (value < std::numeric_limits<int>::min() || value > std::numeric_limits<int>::max()) {
        fail(name, "has a value that does not fit an int: " + std::to_string(value));
      }
      result.push_back(static_cast<int>(value));
    }
    return result;
  }

  /// A record of one number.
  double scalar(const std::string& name) const {
    const Record& record = find(name);
    if (record.count != 1) fail(name, "is not one number");
    return record.type[0] == 'f' ? f8(name)[0] : static_cast<double>(i8(name)[0]);
  }

 private:
  struct Record {
    std::string type;
    std::vector<std::size_t> shape;
    std::size_t count = 1;
    std::vector<char> bytes;
  };

  [[noreturn]] void fail(const std::string& name, const std::string& what) const {
    throw std::runtime_error(m_path + ": record \"" + name + "\" " + what);
  }

  const Record& find(const std::string& name) const {
    const auto found = m_records.find(name);
    if (found == m_records.end()) fail(name, "is not in the file");
    return found->second;
  }

  void read_record(std::ifstream& file, const std::string& line) {
    std::istringstream header(line);
    std::string name;
    Record record;
    if (!(header >> name >> record.type)) fail(line, "has no type");
    std::size_t size = 0;
    if (record.type == "f8" || record.type == "i8") size = 8;
    if (record.type == "f4" || record.type == "i4") size = 4;
    if (size == 0) fail(name, "has an unknown type " + record.type);
    std::size_t extent = 0;
    while (header >> extent) {
      record.shape.push_back(extent);
      record.count *= extent;
    }
    if (!header.eof()) fail(name, "has a bad shape: " + line);
    record.bytes.resize(record.count * size);
    file.read(record.bytes.data(), static_cast<std::streamsize>(record.bytes.size()));
    if (static_cast<std::size_t>(file.gcount()) != record.bytes.size()) fail(name, "is cut off");
    if (!m_records.emplace(name, std::move(record)).second) fail(name, "is there twice");
  }

  template <class From, class To>
  static std::vector<To> convert(const Record& record) {
    std::vector<From> stored(record.count);
    if (record.count != 0) std::memcpy(stored.data(), record.bytes.data(), record.bytes.size());
    std::vector<To> result(record.count);
    for (std::size_t i = 0; i < record.count; ++i) result[i] = static_cast<To>(stored[i]);
    return result;
  }

  std::string m_path;
  std::map<std::string, Record> m_records;
};

}  // namespace kokomoe::testing
