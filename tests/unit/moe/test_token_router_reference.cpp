// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause

// noisy_top_k, xmoe, deepseek_v3, remoe, default_moe and group limits against their definitions as
// torch computes them (tests/reference/make_token_routers.py).
#include "support/catch.hpp"
#include "support/lone_router.hpp"
#include "support/reference_file.hpp"

#include <map>

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

using Options = std::map<std::string, OptionValue>;

const kokomoe::testing::ReferenceFile& reference() {
  static const kokomoe::testing::ReferenceFile file(KOKOMOE_TEST_FOLDER
                                                    "/reference/token_routers.kkref");
  return file;
}

struct Variant {
  std::string record, router;
  Options options{};
  int k = 1;
  bool training = true;
};

std::vector<Variant> variants(const std::string& set, bool narrow) {
  std::vector<Variant> all;
  const auto& file = reference();
  for (const int k : {1, 2, 3, 4, 6, 8}) {
    const std::string tag = std::to_string(k);
    if (!file.has(set + "/default_" + tag + "/expert")) continue;
    const Options losses{{"importance", 0.3}, {"load", 0.7}};
    all.push_back({"noisy_" + tag + (narrow ? "/f4" : "/f8"), "noisy_top_k", losses, k});
    all.push_back({"noisy_" + tag + "_eval", "noisy_top_k", losses, k, false});
    all.push_back({"deepseek_" + tag, "deepseek_v3", {{"route_scale", 2.5}}, k});
    all.push_back({"default_" + tag, "default_moe", {}, k});
    all.push_back({"remoe_" + tag, "remoe", {{"regularization", 0.25}}, k});
  }
  if (set != "e8") return all;
  constexpr int limits[6][3] = {{1, 2, 4}, {2, 1, 4}, {3, 2, 4}, {4, 1, 2}, {4, 2, 4}, {8, 4, 4}};
  for (const auto& [k, limit, groups] : limits)
    for (const std::string score : {"sum", "best"}) {
      const std::string tag = std::to_string(k) + "_of_" + std::to_string(limit) + "_in_" +
                              std::to_string(groups) + "_" + score;
      Options options{{"groups", std::int64_t(groups)},
                      {"group_limit", std::int64_t(limit)},
                      {"group_score", score}};
      all.push_back({"deepseek_" + tag, "deepseek_v3", options, k});
      for (const std::string softmax : {"before", "after"}) {
        options["softmax"] = softmax;
        all.push_back({"top_k_" + tag + "_" + softmax, "top_k", options, k});
      }
    }
  return all;
}

/// A router and a step as a set of the file has them.
template <class T>
struct Rig {
  Rig(const std::string& set, const Variant& variant)
      : shape(reference().shape(set + "/z")),
        step({}, {}, {0, static_cast<int>(shape[0])}, index(set),
             reference().i4(set + "/position")),
        router(variant.router,
               RouterPlace{5, static_cast<int>(shape[1]), variant.k,
                           static_cast<int>(reference().scalar(set + "/layer")), "router"},
               RouterOptions(variant.options)) {
    step.ctx.seed = static_cast<std::uint64_t>(reference().i8(set + "/seed")[0]);
    step.ctx.step = static_cast<std::uint64_t>(reference().i8(set + "/step")[0]);
    step.ctx.training = variant.training;
    step.ctx.update_tokens = static_cast<double>(shape[0]) + 16;
    const auto z = read(set + "/z"), y = read(set + "/y");
    const bool noisy = variant.router == "noisy_top_k";
    for (std::size_t t = 0; t < shape[0]; ++t)
      for (const auto* side : {&z, &y})
        if (noisy || side == &z)
          logits.insert(logits.end(), side->begin() + static_cast<std::ptrdiff_t>(t * shape[1]),
                        side->begin() + static_cast<std::ptrdiff_t>((t + 1) * shape[1]));
    if (variant.router == "deepseek_v3") router.set("bias", read(set + "/bias"));
    if (variant.router == "default_moe") router.set("mean_output", read(set + "/table"));
  }

  static std::vector<T> read(const std::string& name) {
    return reference().template real<T>(name);
  }
  static std::vector<std::uint32_t> index(const std::string& set) {
    std::vector<std::uint32_t> result;
    for (const auto s : reference().i8(set + "/sequence_index"))
      result.push_back(static_cast<std::uint32_t>(s));
    return result;
  }

  std::vector<std::size_t> shape;
  PackedStep step;
  LoneRouter<T> router;
  std::vector<T> logits;
};

template <class T>
void check_variant(const std::string& set, const Variant& variant, double tolerance) {
  const auto& file = reference();
  CAPTURE(set, variant.record);
  Rig<T> rig(set, variant);
  const std::size_t tokens = rig.shape[0], experts = rig.shape[1];
  const std::string at = set + "/" + variant.record + "/";
  const Routing<T> routing = rig.router.route(rig.step, rig.logits);
  const HostRouting<T> got = on_host(routing);
  CHECK(got.expert == file.i4(at + "expert"));
  CHECK(worst_error(got.weight, rig.read(at + "weight"), 1.0) < tolerance);
  if (file.has(at + "probability"))
    CHECK(worst_error(got.probability, rig.read(at + "probability"), 1.0) < tolerance);

  const Vector<double> own("own", 1);
  Kokkos::deep_copy(own, 0.5);
  rig.router.router().add_auxiliary_loss(rig.step.ctx, routing, own);
  Kokkos::fence();
  const double loss = file.has(at + "loss") ? file.scalar(at + "loss") : 0;
  CHECK(std::abs(on_host(own)[0] - 0.5 - loss) <= tolerance * std::max(1.0, loss));
  if (file.has(at + "output")) {
    const Matrix<T> y("y", tokens, 5);
    Kokkos::deep_copy(y, T(1));
    rig.router.router().add_output(rig.step.ctx, routing, y);
    Kokkos::fence();
    std::vector<T> expected = rig.read(at + "output");
    for (T& value : expected) value += T(1);
    CHECK(worst_error(on_host(y), expected, 1.0) < tolerance);
  }

  const auto columns = static_cast<std::size_t>(rig.router.router().logit_columns());
  const Matrix<T> d_logits("d_logits", tokens, columns);
  const auto d_probability =
      file.has(at + "probability") ? rig.read(set + "/dP") : std::vector<T>();
  const auto d_weight = rig.read(at + "dweight"), d_output = rig.read(set + "/d_output");
  std::vector<T> expected = rig.read(at + "dlogits");
  rig.router.backward(rig.step, routing, d_weight, d_probability, d_logits, d_output);
  CHECK(worst_error(on_host(d_logits), expected, 1.0) < tolerance);
  // It adds.
  rig.router.backward(rig.step, routing, d_weight, d_probability, d_logits, d_output);
  for (T& value : expected) value *= 2;
  CHECK(worst_error(on_host(d_logits), expected, 1.0) < tolerance);

  // Replayed on the same logits nothing changes, whatever would be drawn or preferred now.
  const Routing<T> recorded = routing.clone(ExecutionSpace());
  rig.step.ctx.step += 1;
  if (variant.router == "deepseek_v3") rig.router.set("bias", Draw(9).many<T>(experts, 10));
  const Routing<T> replayed = rig.router.route(rig.step, rig.logits, &recorded);
  const HostRouting<T> again = on_host(replayed);
  CHECK(again.expert == got.expert);
  CHECK(again.weight == got.weight);
  CHECK(again.probability == got.probability);
  CHECK(on_host(replayed.extra) == on_host(recorded.extra));
}

}  // namespace

TEMPLATE_TEST_CASE("token routers give the reference's choices, weights, losses and gradients",
                   "[router][reference]", double, float) {
  const bool narrow = std::is_same_v<TestType, float>;
  for (const char* set : {"e4", "e8", "e1", "one_token"})
    for (const Variant& variant : variants(set, narrow))
      check_variant<TestType>(set, variant, narrow ? 2e-5 : 1e-12);
}

TEMPLATE_TEST_CASE("cosine logits and their gradients are the reference's", "[router][reference]",
                   double, float) {
  using T = TestType;
  const double tolerance = std::is_same_v<T, float> ? 2e-5 : 1e-12;
  const auto& file = reference();
  const auto read = [&](const std::string& name) { return file.template real<T>("xmoe/" + name); };
  const auto tokens = file.shape("xmoe/x")[0], d = file.shape("xmoe/x")[1],
             r = file.shape("xmoe/vectors")[1], experts = file.shape("xmoe/vectors")[0];
  for (const std::string variant : {"usual", "limit"}) {
    CAPTURE(variant);
    PackedStep step({static_cast<int>(tokens)});
    LoneRouter<T> router("xmoe",
                         RouterPlace{static_cast<int>(d), static_cast<int>(experts), 2, 0, "router"},
                         RouterOptions({{"projection", std::int64_t(r)}}));
    router.set("projection", read("projection"));
    router.set("vectors", read("vectors"));
    router.set("log_temperature", read(variant + "/log_temperature"));
    const Matrix<T> x = device_matrix<T>(tokens, d, read("x"));
    const Matrix<T> z = router.router().project(step.ctx, x);
    Kokkos::fence();
    CHECK(worst_error(on_host(z), read(variant + "/z")) < tolerance);

    const Matrix<T> d_z = device_matrix<T>(tokens, experts, read("dz")), d_x("d_x", tokens, d);
    Kokkos::deep_copy(d_x, T(3));
    for (int pass = 1; pass <= 2; ++pass) {
      router.router().project_backward(step.ctx, x, d_z, d_x);
      Kokkos::fence();
      const auto got = on_host(d_x), expected = read(variant + "/d_x");
      // By row: that of zeros has a gradient of another size.
      for (std::size_t t = 0; t < tokens; ++t) {
        std::vector<T> row, wanted;
        for (std::size_t c = 0; c < d; ++c) {
          row.push_back(got[t * d + c]);
          wanted.push_back(T(3) + T(pass) * expected[t * d + c]);
        }
        CHECK(worst_error(row, wanted) < tolerance);
      }
      for (const std::string tensor : {"projection", "vectors", "log_temperature"}) {
        CAPTURE(tensor);
        auto wanted = read(variant + "/d_" + tensor);
        for (T& value : wanted) value *= T(pass);
        ParameterStore<T>& store = router.store();
        CHECK(worst_error(on_host(store.gradient_vector(store.find("router." + tensor))), wanted,
                          1.0) < 4 * tolerance);
      }
    }
  }
}
