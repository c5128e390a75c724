// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause

// Checkpoints that earlier versions wrote, committed: they load for ever, with the values that h5py
// found in them when they were new.
#include "kokomoe/io/checkpoint.hpp"
#include "support/catch.hpp"
#include "support/temporary_folder.hpp"

#include <cstring>
#include <map>
#include <sstream>

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

/// The CRC-32 of zlib, PNG and Ethernet.
std::uint32_t crc32(const void* data, std::size_t bytes) {
  std::uint32_t value = ~0u;
  for (std::size_t i = 0; i < bytes; ++i) {
    value ^= static_cast<const unsigned char*>(data)[i];
    for (int bit = 0; bit < 8; ++bit) value = (value >> 1) ^ ((value & 1) != 0 ? 0xedb88320u : 0u);
  }
  return ~value;
}

std::uint32_t crc32(const std::string& text) {
  return crc32(text.data(), text.size());
}

struct Recorded {
  struct Tensor {
    std::vector<std::size_t> shape;
    std::uint32_t crc = 0;
    float first = 0, last = 0;
  };
  std::map<std::string, Tensor> tensors;
  std::map<std::string, std::int64_t> counters;
  std::map<std::string, std::uint32_t> texts;
  std::int64_t step = -1;
};

Recorded read_recorded(const std::string& path) {
  Recorded result;
  std::istringstream lines(read_text(path));
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string kind, name;
    words >> kind >> name;
    if (kind == "tensor") {
      std::string dtype, shape, extent;
      Recorded::Tensor tensor;
      words >> dtype >> shape >> std::hex >> tensor.crc >> std::dec >> tensor.first >> tensor.last;
      REQUIRE(dtype == "float32");
      std::istringstream extents(shape);
      while (std::getline(extents, extent, ',')) tensor.shape.push_back(std::stoul(extent));
      result.tensors[name] = tensor;
    } else if (kind == "counter") {
      words >> result.counters[name];
    } else if (kind == "text") {
      words >> std::hex >> result.texts[name];
    } else if (name == "step") {
      words >> result.step;
    }
    REQUIRE_FALSE(words.fail());
  }
  return result;
}

}  // namespace

TEST_CASE("the CRC of the check value", "[checkpoint]") {
  CHECK(crc32("123456789") == 0xcbf43926u);
}

TEST_CASE("a checkpoint of format 1 loads for ever", "[checkpoint]") {
  const std::string folder = std::string(KOKOMOE_TEST_FOLDER) + "/reference/checkpoint_format_1";
  const std::string step = folder + "/step_3";
  const Recorded recorded = read_recorded(folder + "/values.txt");
  REQUIRE(recorded.tensors.size() == 62);
  ParameterStore<float> store;
  for (const auto& [name, tensor] : recorded.tensors) {
    const std::string group = name.substr(0, name.find('/'));
    if (group == "optimizer") continue;
    ParameterSpec spec;
    spec.name = name.substr(group.size() + 1);
    spec.shape = tensor.shape;
    spec.expert = spec.name.find(".moe.experts.") < spec.name.npos;
    spec.state = group == "router_state";
    store.add(spec);
    if (!spec.state && recorded.tensors.count("optimizer/m/" + spec.name) == 0)
      REQUIRE(store.freeze(spec.name) == 1);
  }
  store.allocate(ExecutionSpace(), 1);
  const CheckpointMeta meta = load_checkpoint(step, store, Communicator());
  CHECK(meta.step == recorded.step);
  CHECK(meta.counters == recorded.counters);
  CHECK(crc32(meta.deck) == recorded.texts.at("deck"));
  for (const auto& [name, text] : meta.texts) CHECK(crc32(text) == recorded.texts.at(name));
  CHECK(meta.texts.size() + 1 == recorded.texts.size());

  std::size_t compared = 0;
  const auto compare = [&](const std::string& name, const Vector<float>& buffer,
                           const ParameterStore<float>::Entry& entry) {
    INFO(name);
    const Recorded::Tensor& tensor = recorded.tensors.at(name);
    const auto host = Kokkos::create_mirror_view_and_copy(
        Kokkos::HostSpace(), Vector<float>(buffer.data() + entry.offset, entry.size));
    CHECK(crc32(host.data(), host.size() * sizeof(float)) == tensor.crc);
    CHECK(host(0) == tensor.first);
    CHECK(host(host.size() - 1) == tensor.last);
    ++compared;
  };
  for (const auto& entry : store.entries()) {
    const auto& buffer = store.buffer(entry.group);
    const bool state = entry.spec.state;
    compare((state ? "router_state/" : "parameters/") + entry.spec.name, buffer.value, entry);
    if (state || entry.frozen) continue;
    compare("optimizer/m/" + entry.spec.name, buffer.moment1, entry);
    compare("optimizer/v/" + entry.spec.name, buffer.moment2, entry);
  }
  CHECK(compared == recorded.tensors.size());

  const auto listed = inspect_checkpoint(step);
  REQUIRE(listed.size() == recorded.tensors.size());
  for (const TensorInfo& tensor : listed) {
    CHECK(tensor.shape == recorded.tensors.at(tensor.name).shape);
    CHECK(tensor.dtype == "float32");
  }
}
