// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "io/checkpoint_folders.hpp"
#include "io/digest.hpp"
#include "io/state_file.hpp"
#include "kokomoe/core/error.hpp"
#include "kokomoe/io/checkpoint.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <ostream>
#include <set>

namespace kokomoe {

namespace {

using Bytes = std::vector<std::byte>;

double element(const Bytes& bytes, const std::string& dtype, std::size_t index) {
  if (dtype == "float32") {
    float value = 0;
    std::memcpy(&value, bytes.data() + index * sizeof value, sizeof value);
    return static_cast<double>(value);
  }
  double value = 0;
  std::memcpy(&value, bytes.data() + index * sizeof value, sizeof value);
  return value;
}

std::size_t elements(const Bytes& bytes, const detail::TensorHeader& header) {
  return bytes.size() / header.element_bytes();
}

/// A verified reader of a step folder for `work`.
void with_reader(const std::string& step_folder,
                 const std::function<void(const detail::StateReader&)>& work) {
  const std::string step = detail::without_slash(step_folder);
  detail::with_alternative(step, [&] {
    const detail::Manifest manifest =
        detail::parse_manifest(detail::read_manifest_text(step), step + "/manifest.json");
    detail::verify_state(step, manifest);
    work(detail::StateReader(step + "/state.h5"));
  });
}

TensorDifference compare(const std::string& name, const detail::StateReader& a,
                         const detail::StateReader& b) {
  TensorDifference result;
  result.name = name;
  result.max_abs_difference = std::numeric_limits<double>::quiet_NaN();
  const detail::TensorHeader first = a.header(name), second = b.header(name);
  if (first.shape != second.shape) {
    result.note =
        "shapes " + detail::shape_text(first.shape) + " and " + detail::shape_text(second.shape);
    return result;
  }
  if (first.dtype != second.dtype) result.note = "types " + first.dtype + " and " + second.dtype;
  result.equal = first.dtype == second.dtype;
  result.max_abs_difference = 0;
  b.verify(name);
  Bytes y;
  const std::vector<detail::Piece> pieces = a.pieces(name);
  std::size_t next = 0;
  a.verify(name, [&](const Bytes& x) {
    b.read(name, pieces[next++], y);
    if (first.dtype == second.dtype && x == y) return;
    result.equal = false;
    for (std::size_t i = 0; i < elements(x, first); ++i) {
      const double difference = std::abs(element(x, first.dtype, i) - element(y, second.dtype, i));
      // NaN stays.
      if (!(difference <= result.max_abs_difference) && !std::isnan(result.max_abs_difference))
        result.max_abs_difference = difference;
    }
  });
  return result;
}

/// `name` as it is in the file, where "parameters/" may be left out.
std::string find_tensor(const detail::StateReader& reader, const std::string& name) {
  const std::vector<std::string> found = reader.names();
  const std::set<std::string> names(found.begin(), found.end());
  for (const std::string& candidate : {name, "parameters/" + name})
    if (names.count(candidate) > 0) return candidate;
  std::string near = nearest_name(name, names);
  if (near.empty()) near = nearest_name("parameters/" + name, names);
  throw InputError(reader.path() + ": error: has no tensor \"" + name + "\"" +
                   (near.empty() ? "" : "; did you mean " + near + "?"));
}

}  // namespace

std::vector<TensorInfo> inspect_checkpoint(const std::string& step_folder) {
  std::vector<TensorInfo> result;
  with_reader(step_folder, [&](const detail::StateReader& reader) {
    for (const std::string& name : reader.names()) {
      const detail::TensorHeader header = reader.header(name);
      double sum = 0;
      std::size_t count = 0;
      detail::StreamDigest digest;
      reader.verify(name, [&](const Bytes& bytes) {
        digest.add(bytes.data(), bytes.size());
        for (std::size_t i = 0; i < elements(bytes, header); ++i) {
          const double value = element(bytes, header.dtype, i);
          sum += value * value;
        }
        count += elements(bytes, header);
      });
      result.push_back({name, header.shape, header.dtype, detail::hex(digest.value()),
                        count == 0 ? 0 : std::sqrt(sum / static_cast<double>(count))});
    }
  });
  return result;
}

std::vector<TensorDifference> compare_checkpoints(const std::string& step_a,
                                                  const std::string& step_b) {
  std::vector<TensorDifference> result;
  with_reader(step_a, [&](const detail::StateReader& a) {
    with_reader(step_b, [&](const detail::StateReader& b) {
      std::map<std::string, int> where;  // 1: in the first, 2: in the second
      for (const std::string& name : a.names()) where[name] |= 1;
      for (const std::string& name : b.names()) where[name] |= 2;
      for (const auto& [name, in] : where) {
        if (in == 3) {
          result.push_back(compare(name, a, b));
          continue;
        }
        result.push_back({name, false, std::numeric_limits<double>::quiet_NaN(),
                          in == 1 ? "only in the first" : "only in the second"});
      }
    });
  });
  return result;
}

void export_tensor(const std::string& step_folder, const std::string& name, std::ostream& out) {
  with_reader(step_folder, [&](const detail::StateReader& reader) {
    const std::string tensor = find_tensor(reader, name);
    const detail::TensorHeader header = reader.header(tensor);
    out << "# " << tensor << " shape=";
    for (std::size_t i = 0; i < header.shape.size(); ++i)
      out << (i > 0 ? "," : "") << header.shape[i];
    out << " dtype=" << header.dtype << "\n";
    const int digits = header.dtype == "float32" ? 9 : 17;
    std::size_t column = 0;
    reader.verify(tensor, [&](const Bytes& bytes) {
      char text[40];
      for (std::size_t i = 0; i < elements(bytes, header); ++i) {
        std::snprintf(text, sizeof text, "%.*g", digits, element(bytes, header.dtype, i));
        const bool ends = ++column == header.shape.back();
        if (ends) column = 0;
        out << text << (ends ? '\n' : ' ');
      }
    });
  });
}

}  // namespace kokomoe
