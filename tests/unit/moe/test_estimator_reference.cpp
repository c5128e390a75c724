// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "support/catch.hpp"
#include "support/lone_router.hpp"
#include "support/reference_file.hpp"

#include <cmath>
#include <map>

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

using Options = std::map<std::string, OptionValue>;
using Reference = kokomoe::testing::ReferenceFile;

const Reference& reference() {
  static const Reference file(KOKOMOE_TEST_FOLDER "/reference/estimators.kkref");
  return file;
}

/// What a record's last part stands for.
Options options_of(const std::string& router, const std::string& tag) {
  if (tag == "open") {
    Options options{{"mask_eps", 0.0}};
    if (router != "straight_through" && router != "reinmax")
      options["argmax_exception"] = router.rfind("sparsemixer", 0) != 0;
    return options;
  }
  if (tag == "sum") return {{"mask", std::string("sum")}, {"mask_eps", 0.1}};
  if (tag == "factor") return {{"grad_factor", router == "reinforce" ? 0.5 : -0.75}};
  if (tag == "no_sampling") return {{"sampling", false}, {"argmax_exception", false}};
  if (tag == "temperature_1") return {{"temperature", 1.0}};
  if (tag == "tempered") return {{"temperature", 1.5}, {"mask_eps", 0.0}};
  return {};
}

/// The tokens of a set, as a step.
template <class T>
struct Case {
  explicit Case(const std::string& set_)
      : set(set_),
        tokens(reference().shape(set + "/logits")[0]),
        experts(reference().shape(set + "/logits")[1]),
        logits(reference().template real<T>(set + "/logits")),
        step({}, {}, reference().i4(set + "/offsets"), sequences(),
             reference().i4(set + "/position")) {
    step.ctx.seed = integer("seed");
    step.ctx.step = integer("step");
    step.ctx.loss_scale = reference().scalar(set + "/loss_scale");
    step.ctx.sequence_loss = device_vector(reference().f8(set + "/sequence_loss"));
  }
  std::uint64_t integer(const std::string& name) const {
    return static_cast<std::uint64_t>(reference().i8(set + "/" + name)[0]);
  }
  std::vector<std::uint32_t> sequences() const {
    std::vector<std::uint32_t> result;
    for (const auto s : reference().i8(set + "/sequence_index"))
      result.push_back(static_cast<std::uint32_t>(s));
    return result;
  }
  /// The first `slots` columns of the set's dL/dweight.
  std::vector<T> d_weight(std::size_t slots) const {
    const auto all = reference().template real<T>(set + "/dweight");
    std::vector<T> result;
    for (std::size_t t = 0; t < tokens; ++t)
      for (std::size_t r = 0; r < slots; ++r) result.push_back(all[t * experts + r]);
    return result;
  }

  std::string set;
  std::size_t tokens, experts;
  std::vector<T> logits;
  PackedStep step;
};

/// Masks as numbers, bit e = expert e kept.
std::vector<int> as_bits(const std::vector<int>& kept, std::size_t experts) {
  std::vector<int> bits(kept.size() / experts, 0);
  for (std::size_t i = 0; i < kept.size(); ++i) bits[i / experts] |= kept[i] << (i % experts);
  return bits;
}

template <class T>
void check_backward(Case<T>& here, LoneRouter<T>& router, const Routing<T>& routing,
                    const std::string& at, std::size_t slots, double tolerance) {
  const Matrix<T> d_logits("d_logits", here.tokens, here.experts);
  router.backward(here.step, routing, here.d_weight(slots), {}, d_logits);
  std::vector<T> expected = reference().template real<T>(at + "dlogits");
  CHECK(worst_error(on_host(d_logits), expected, 1.0) < tolerance);
  if (!reference().has(at + "dlogits_from_dP")) return;
  // Backward adds, and takes both gradients at once.
  const auto more = reference().template real<T>(at + "dlogits_from_dP");
  router.backward(here.step, routing, here.d_weight(slots),
                  reference().template real<T>(here.set + "/dP"), d_logits);
  for (std::size_t i = 0; i < expected.size(); ++i) expected[i] = 2 * expected[i] + more[i];
  CHECK(worst_error(on_host(d_logits), expected, 1.0) < tolerance);
}

/// A replay repeats everything, whatever would be drawn now; without a recorded mask there is none.
template <class T>
void check_replay(Case<T>& here, LoneRouter<T>& router, const Routing<T>& routing) {
  Routing<T> recorded = routing.clone(ExecutionSpace());
  const HostRouting<T> got = on_host(routing);
  here.step.ctx.step += 1;
  const HostRouting<T> again = on_host(router.route(here.step, here.logits, &recorded));
  CHECK(again.expert == got.expert);
  CHECK(again.weight == got.weight);
  CHECK(again.probability == got.probability);
  CHECK(again.scale == got.scale);
  CHECK(again.kept == got.kept);
  if (recorded.kept.extent(0) == 0) return;
  Kokkos::deep_copy(recorded.kept, static_cast<unsigned char>(1));
  const HostRouting<T> ones = on_host(router.route(here.step, here.logits, &recorded));
  recorded.kept = Matrix<unsigned char>();
  const HostRouting<T> open = on_host(router.route(here.step, here.logits, &recorded));
  CHECK(ones.weight == open.weight);
  CHECK(ones.kept == open.kept);
  CHECK(open.expert == got.expert);
  here.step.ctx.step -= 1;
}

template <class T>
void check_gate(const std::string& set, const std::string& name, double tolerance) {
  // name: ROUTER/K/TAG
  const std::size_t first = name.find('/'), second = name.find('/', first + 1);
  const std::string router_name = name.substr(0, first), tag = name.substr(second + 1);
  const int k = std::stoi(name.substr(first + 1, second - first - 1));
  const std::string at = set + "/" + name + "/";
  const Reference& file = reference();
  Case<T> here(set);
  here.step.ctx.training = tag != "evaluation";
  LoneRouter<T> router(router_name, static_cast<int>(here.experts), k,
                       RouterOptions(options_of(router_name, tag)),
                       static_cast<int>(here.integer("layer")));
  const Routing<T> routing = router.route(here.step, here.logits);
  const HostRouting<T> got = on_host(routing);
  REQUIRE(got.slots_per_token == k);
  CHECK(got.expert == file.i4(at + "expert"));
  CHECK(got.scale == file.template real<T>(at + "scale"));
  CHECK(worst_error(got.weight, file.template real<T>(at + "weight"), 1.0) < tolerance);
  CHECK(as_bits(got.kept, here.experts) == file.i4(at + "kept"));
  if (file.has(at + "probability"))
    CHECK(worst_error(got.probability, file.template real<T>(at + "probability")) < tolerance);
  if (file.has(at + "balance"))
    CHECK(worst_error(routing.balance_probability.extent(0) != 0
                          ? on_host(routing.balance_probability)
                          : got.probability,
                      file.template real<T>(at + "balance")) < tolerance);
  if (file.has(at + "dlogits"))
    check_backward(here, router, routing, at, static_cast<std::size_t>(k), tolerance);
  check_replay(here, router, routing);
}

/// The records of a set, less the last part.
std::vector<std::string> variants(const std::string& set, const std::string& record) {
  std::vector<std::string> names;
  for (const std::string& name : reference().names(set + "/")) {
    const std::size_t last = name.rfind('/');
    if (name.substr(last + 1) == record)
      names.push_back(name.substr(set.size() + 1, last - set.size() - 1));
  }
  return names;
}

}  // namespace

TEMPLATE_TEST_CASE("sampled gates give the reference's choices, weights and gradients",
                   "[router][estimator][reference]", double, float) {
  const bool narrow = std::is_same_v<TestType, float>;
  std::size_t checked = 0;
  for (const char* name : {"e4", "e7", "degenerate"}) {
    const std::string set = std::string(name) + (narrow ? "/f4" : "/f8");
    for (const std::string& variant : variants(set, "expert")) {
      CAPTURE(set, variant);
      check_gate<TestType>(set, variant, narrow ? 1e-5 : 1e-12);
      ++checked;
    }
  }
  CHECK(checked == 2 * (8 * 6 + 5) + 9);
}

TEMPLATE_TEST_CASE("one-hot gates give the reference's choices and gradients",
                   "[router][estimator][reference]", double, float) {
  using T = TestType;
  const bool narrow = std::is_same_v<T, float>;
  const double tolerance = narrow ? 1e-5 : 1e-12;
  const Reference& file = reference();
  for (const char* name : {"e4", "e7", "degenerate"}) {
    const std::string set = std::string(name) + (narrow ? "/f4" : "/f8");
    for (const std::string& variant : variants(set, "chosen")) {
      CAPTURE(set, variant);
      const std::string at = set + "/" + variant + "/";
      const std::string router_name = variant.substr(0, variant.find('/'));
      Case<T> here(set);
      LoneRouter<T> router(
          router_name, static_cast<int>(here.experts), 1,
          RouterOptions(options_of(router_name, variant.substr(variant.find('/') + 1))),
          static_cast<int>(here.integer("layer")));
      const Routing<T> routing = router.route(here.step, here.logits);
      const HostRouting<T> got = on_host(routing);
      const auto counted = on_host(routing.counted);
      const std::vector<int> chosen = file.i4(at + "chosen");
      REQUIRE(got.slots_per_token == static_cast<int>(here.experts));
      for (std::size_t n = 0; n < got.expert.size(); ++n) {
        const int e = static_cast<int>(n % here.experts);
        const bool is_chosen = chosen[n / here.experts] == e;
        CHECK(got.expert[n] == e);
        CHECK(got.weight[n] == (is_chosen ? T(1) : T(0)));
        CHECK(got.scale[n] == got.weight[n]);
        CHECK((counted[n] != 0) == is_chosen);
      }
      CHECK(worst_error(got.probability, file.template real<T>(at + "probability")) < tolerance);
      CHECK(as_bits(got.kept, here.experts) == file.i4(at + "kept"));
      check_backward(here, router, routing, at, here.experts, tolerance);
      check_replay(here, router, routing);
    }
  }
}
