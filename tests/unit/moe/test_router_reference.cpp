// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "support/catch.hpp"
#include "support/lone_router.hpp"
#include "support/reference_file.hpp"

#include <cmath>
#include <map>
#include <set>

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

using Options = std::map<std::string, OptionValue>;

const kokomoe::testing::ReferenceFile& reference() {
  static const kokomoe::testing::ReferenceFile file(KOKOMOE_TEST_FOLDER "/reference/routers.kkref");
  return file;
}

struct Variant {
  std::string record, router;
  Options options{};
  int k = 1;
  bool training = true;
};

std::vector<Variant> variants(int experts) {
  std::vector<Variant> all = {
      {"sparsemixer_train", "sparsemixer"},
      {"sparsemixer_no_exception", "sparsemixer", {{"argmax_exception", false}}},
      {"sparsemixer_grad_factor_1", "sparsemixer", {{"grad_factor", 1.0}}},
      {"sparsemixer_no_sampling", "sparsemixer", {{"sampling", false}}},
      {"sparsemixer_no_sampling_no_exception",
       "sparsemixer",
       {{"sampling", false}, {"argmax_exception", false}}},
      {"sparsemixer_mask_eps_0.01", "sparsemixer", {{"mask_eps", 0.01}}},
      {"sparsemixer_mask_eps_0.3", "sparsemixer", {{"mask_eps", 0.3}}},
      {"sparsemixer_eval", "sparsemixer", {}, 1, false},
      {"switch_train", "switch", {{"jitter", 0.1}}},
      {"switch_eval", "switch", {{"jitter", 0.1}}, 1, false},
      {"dense_mixture", "dense_mixture"},
  };
  for (const int k : std::set<int>{1, std::min(2, experts), experts})
    for (const std::string softmax : {"before", "after"})
      all.push_back(
          {"top_k_" + std::to_string(k) + "_" + softmax, "top_k", {{"softmax", softmax}}, k});
  return all;
}

/// Largest |a - b| / |b|; infinite when one is zero and the other is not.
template <class T>
double worst_ratio(const std::vector<T>& a, const std::vector<T>& b) {
  REQUIRE(a.size() == b.size());
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i)
    if (a[i] != b[i]) worst = std::max(worst, static_cast<double>(std::abs((a[i] - b[i]) / b[i])));
  return worst;
}

template <class T>
void check_variant(const std::string& set, const Variant& variant, double tolerance) {
  const auto& file = reference();
  CAPTURE(set, variant.record);
  const auto shape = file.shape(set + "/logits");
  const std::size_t tokens = shape[0], experts = shape[1];
  const auto integer = [&](const char* name) {
    return static_cast<std::uint64_t>(file.i8(set + "/" + name)[0]);
  };
  std::vector<std::uint32_t> sequence;
  for (const auto s : file.i8(set + "/sequence_index"))
    sequence.push_back(static_cast<std::uint32_t>(s));
  const std::vector<int> position = file.i4(set + "/position");
  PackedStep step({}, {}, {0, static_cast<int>(tokens)}, sequence, position);
  step.ctx.seed = integer("seed");
  step.ctx.step = integer("step");
  step.ctx.training = variant.training;
  LoneRouter<T> router(variant.router, static_cast<int>(experts), variant.k,
                       RouterOptions(variant.options), static_cast<int>(integer("layer")));
  const std::vector<T> logits = file.template real<T>(set + "/logits");
  const Routing<T> routing = router.route(step, logits);
  const HostRouting<T> got = on_host(routing);

  const std::string at = set + "/" + variant.record + "/";
  const auto slots = file.shape(at + "expert")[1];
  REQUIRE(got.slots_per_token == static_cast<int>(slots));
  for (std::size_t n = 0; n < got.token.size(); ++n)
    REQUIRE(got.token[n] == static_cast<int>(n / slots));
  CHECK(got.expert == file.i4(at + "expert"));
  CHECK(worst_ratio(got.weight, file.template real<T>(at + "weight")) < tolerance);
  CHECK(worst_ratio(got.probability, file.template real<T>(at + "probability")) < tolerance);
  if (file.has(at + "scale")) CHECK(got.scale == file.template real<T>(at + "scale"));
  if (!got.kept.empty()) {
    const std::vector<int> kept = file.i4(at + "mask");
    for (std::size_t t = 0; t < tokens; ++t) {
      bool finite = true;
      for (std::size_t e = 0; e < experts; ++e)
        finite = finite && std::isfinite(logits[t * experts + e]);
      for (std::size_t e = 0; finite && e < experts; ++e) {
        CAPTURE(t, e);
        CHECK(got.kept[t * experts + e] == kept[t * experts + e]);
      }
    }
  }
  if (!file.has(at + "dweight")) return;

  const Matrix<T> d_logits("d_logits", tokens, experts);
  const auto d_weight = file.template real<T>(at + "dweight");
  router.backward(step, routing, d_weight, {}, d_logits);
  std::vector<T> expected = file.template real<T>(at + "dlogits");
  CHECK(worst_error(on_host(d_logits), expected, 1.0) < tolerance);
  // Backward adds, and takes both gradients at once.
  const auto d_probability = file.template real<T>(set + "/dP");
  const auto more = file.template real<T>(at + "dlogits_from_dP");
  router.backward(step, routing, d_weight, d_probability, d_logits);
  for (std::size_t i = 0; i < expected.size(); ++i) expected[i] = 2 * expected[i] + more[i];
  CHECK(worst_error(on_host(d_logits), expected, 1.0) < tolerance);

  // Replayed on the same logits, nothing changes, whatever would be drawn now.
  const Routing<T> recorded = routing.clone(ExecutionSpace());
  step.ctx.step += 1;
  step.ctx.seed += 1;
  if (variant.record == "switch_train") return;  // jitter is drawn anew: not part of the choice
  const HostRouting<T> again = on_host(router.route(step, logits, &recorded));
  CHECK(again.expert == got.expert);
  CHECK(again.weight == got.weight);
  CHECK(again.probability == got.probability);
  CHECK(again.scale == got.scale);
  CHECK(again.kept == got.kept);
}

}  // namespace

TEMPLATE_TEST_CASE("routers give the reference's choices, weights and gradients",
                   "[router][reference]", double, float) {
  const bool narrow = std::is_same_v<TestType, float>;
  for (const char* set :
       {"random_e4", "random_e3", "random_e16", "random_e1", "degenerate_e4", "one_token"}) {
    const std::string name = std::string(set) + (narrow ? "/f4" : "/f8");
    const auto experts = static_cast<int>(reference().shape(name + "/logits")[1]);
    for (const Variant& variant : variants(experts))
      check_variant<TestType>(name, variant, narrow ? 1e-5 : 1e-12);
  }
}
