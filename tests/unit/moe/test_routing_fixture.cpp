// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause

// Equal logits give equal routing in every build and on any number of threads: all builds compare
// with one committed file, and tests/regression/routing_threads.sh runs this with 1 and 2 threads.
// To write the file anew (see tests/reference/README.md):
//   KOKOMOE_WRITE_FIXTURE=tests/reference/routing.kkref test_moe "[write-routing-fixture]"
#include "support/catch.hpp"
#include "support/lone_router.hpp"
#include "support/reference_file.hpp"

#include <bit>
#include <cmath>
#include <cstdlib>
#include <fstream>

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

constexpr int experts = 8;

struct Variant {
  const char* name;
  const char* router;
  int k;
  RouterOptions options{};
};

std::vector<Variant> variants() {
  const RouterOptions jitter({{"jitter", 0.1}});
  return {
      {"sparsemixer", "sparsemixer", 1},
      {"sparsemixer_no_exception", "sparsemixer", 1, RouterOptions({{"argmax_exception", false}})},
      {"sparsemixer_sum_mask", "sparsemixer", 1, RouterOptions({{"mask", std::string("sum")}})},
      {"switch", "switch", 1, jitter},
      {"top_k_before", "top_k", 2, jitter},
      {"top_k_after", "top_k", 2, RouterOptions({{"softmax", std::string("after")}})}};
}

template <class T>
HostRouting<T> route(const Variant& variant, const std::vector<float>& logits) {
  PackedStep step({300, 1, 299});
  step.ctx.seed = 20240517;
  step.ctx.step = 6;
  LoneRouter<T> router(variant.router, experts, variant.k, variant.options, 1);
  return on_host(router.route(step, std::vector<T>(logits.begin(), logits.end())));
}

/// FNV-1a of what this machine's exp and log say: weights are the same bits only where it agrees.
template <class T>
std::int64_t math_library() {
  std::uint64_t hash = 14695981039346656037ull;
  const auto add = [&](T value) {
    std::uint64_t bits = 0;
    if constexpr (std::is_same_v<T, float>) bits = std::bit_cast<std::uint32_t>(value);
    if constexpr (std::is_same_v<T, double>) bits = std::bit_cast<std::uint64_t>(value);
    hash = (hash ^ bits) * 1099511628211ull;
  };
  Draw draw(11);
  for (int i = 0; i < 100000; ++i) {
    const double u = 0.5 * (draw() + 1) + 0x1p-40;
    add(std::exp(static_cast<T>(-8 * u)));
    add(std::log(static_cast<T>(u)));
  }
  return static_cast<std::int64_t>(hash);
}

template <class T>
std::string type_name() {
  return std::is_same_v<T, float> ? "f4" : "f8";
}

template <class T>
void check(const kokomoe::testing::ReferenceFile& file) {
  const std::string type = type_name<T>();
  const std::vector<float> logits = file.f4("logits");
  const bool same_library = file.i8(type + "/math_library")[0] == math_library<T>();
  if (!same_library)
    WARN("another exp or log than the fixture's: weights are compared to rounding");
  for (const Variant& variant : variants()) {
    CAPTURE(variant.name, type);
    const HostRouting<T> got = route<T>(variant, logits);
    const std::string at = type + "/" + variant.name + "/";
    CHECK(got.expert == file.i4(at + "expert"));
    if (file.has(at + "scale")) CHECK(got.scale == file.template real<T>(at + "scale"));
    if (file.has(at + "kept")) CHECK(got.kept == file.i4(at + "kept"));
    const auto weight = file.template real<T>(at + "weight");
    if (same_library)
      CHECK(got.weight == weight);
    else
      CHECK(worst_error(got.weight, weight) < (std::is_same_v<T, float> ? 1e-6 : 1e-14));
  }
}

class Writer {
 public:
  explicit Writer(const std::string& path) : file_(path, std::ios::binary) { file_ << "KKREF1\n"; }
  template <class T>
  void put(const std::string& name, const char* type, const std::vector<T>& values) {
    file_ << name << ' ' << type << ' ' << values.size() << '\n';
    file_.write(reinterpret_cast<const char*>(values.data()),
                static_cast<std::streamsize>(values.size() * sizeof(T)));
  }

 private:
  std::ofstream file_;
};

template <class T>
void write(Writer& writer, const std::vector<float>& logits) {
  const std::string type = type_name<T>();
  writer.put(type + "/math_library", "i8", std::vector<std::int64_t>{math_library<T>()});
  for (const Variant& variant : variants()) {
    const HostRouting<T> routing = route<T>(variant, logits);
    const std::string at = type + "/" + variant.name + "/";
    writer.put(at + "expert", "i4", routing.expert);
    writer.put(at + "weight", type.c_str(), routing.weight);
    if (!routing.scale.empty()) writer.put(at + "scale", type.c_str(), routing.scale);
    if (!routing.kept.empty()) writer.put(at + "kept", "i4", routing.kept);
  }
}

}  // namespace

TEST_CASE("equal logits route to the committed bits in every build", "[router][routing-fixture]") {
  const kokomoe::testing::ReferenceFile file(KOKOMOE_TEST_FOLDER "/reference/routing.kkref");
  check<float>(file);
  check<double>(file);
}

TEST_CASE("write the routing fixture", "[.][write-routing-fixture]") {
  const char* path = std::getenv("KOKOMOE_WRITE_FIXTURE");
  REQUIRE(path != nullptr);
  // Levels of both signs with neighbours inside and outside of the mask.
  std::vector<float> logits;
  Draw draw(5);
  for (int t = 0; t < 600; ++t) {
    const double level = draw() > 0 ? 1.5 : -1.5;
    for (int e = 0; e < experts; ++e) logits.push_back(static_cast<float>(level * (1 + draw(0.3))));
  }
  Writer writer(path);
  writer.put("logits", "f4", logits);
  write<float>(writer, logits);
  write<double>(writer, logits);
}
