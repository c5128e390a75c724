// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/error.hpp"
#include "support/catch.hpp"
#include "support/tiny_training.hpp"

#include <cmath>
#include <limits>

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

/// Values, moments and router state, where a NaN equals itself.
std::vector<std::vector<float>> everything(const ParameterStore<float>& store) {
  using Group = ParameterStore<float>::Group;
  std::vector<std::vector<float>> all;
  for (const Group group : {Group::replicated, Group::expert, Group::state}) {
    const auto& buffer = store.buffer(group);
    for (const Vector<float>& v : {buffer.value, buffer.moment1, buffer.moment2}) {
      all.push_back(on_host(v));
      for (float& x : all.back())
        if (std::isnan(x)) x = 12345;
    }
  }
  return all;
}

/// Every seventh value of a tensor is another while this lives.
class Poison {
 public:
  Poison(const ParameterStore<float>& store, const std::string& name, float value)
      : values_(store.value_vector(store.find(name))), kept_(on_host(values_)) {
    std::vector<float> poisoned = kept_;
    for (std::size_t i = 0; i < poisoned.size(); i += 7) poisoned[i] = value;
    fill_device(values_, poisoned);
  }
  ~Poison() { fill_device(values_, kept_); }
  Poison(const Poison&) = delete;
  Poison& operator=(const Poison&) = delete;

  std::string counts() const {
    return "(" + std::to_string((kept_.size() + 6) / 7) + " of " + std::to_string(kept_.size()) +
           ")";
  }

 private:
  Vector<float> values_;
  std::vector<float> kept_;
};

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();

}  // namespace

TEST_CASE("a parameter that is not finite ends the update, named and without a trace", "[train]") {
  const std::string router = GENERATE("sparsemixer", "switch", "top_k", "dense_mixture");
  const auto [poisoned, where] = GENERATE(
      std::pair<std::string, std::string>("embedding.weight", ""),
      std::pair<std::string, std::string>("blocks.0.moe.router.weight", " of layer 0"),
      std::pair<std::string, std::string>("blocks.1.moe.experts.w1", " of layer 1"));
  const float value = GENERATE(not_a_number, infinity);
  INFO(router << " with " << value << " in " << poisoned);
  const TinyTraining tiny;
  const auto model = tiny.make<float>({"moe/router=" + router});
  ParameterStore<float>& store = model->store();
  model->update(0);
  const Poison poison(store, poisoned, value);
  const auto before = everything(store);
  const std::string message = message_of<Error>([&] { model->update(1); });
  CHECK_THAT(message, contains("update 2: "));
  CHECK_THAT(message, contains("parameters are as they were"));
  CHECK_THAT(message, contains("first parameter that is not finite: \"" + poisoned + "\"" + where +
                               " " + poison.counts()));
  CHECK(everything(store) == before);
}

TEST_CASE("values that grow too large are named by layer and gradient", "[train]") {
  const TinyTraining tiny;
  const auto model = tiny.make<float>({"model/layers=3"});
  const ParameterStore<float>& store = model->store();
  // Finite, but not what the activation makes of it: a product of two of them.
  const Poison poison(store, "blocks.1.moe.experts.w1", 1e30f);
  const std::string message = message_of<Error>([&] { model->update(0); });
  CHECK_THAT(message, contains("update 1: "));
  CHECK_THAT(message, contains("router probabilities that are not finite: layer 2"));
  CHECK_THAT(message, contains("first gradient that is not finite: \""));
}

TEST_CASE("an update that is not finite is left out when the deck says so", "[train]") {
  const std::string router =
      GENERATE("sparsemixer", "default_moe", "reinforce", "deepseek_v3", "remoe",
               "quantile_balance");
  INFO(router);
  const TinyTraining tiny;
  const std::vector<std::string> overrides{"moe/router=" + router, "train/on_non_finite=skip",
                                           "moe/allow_future=true"};
  const auto model = tiny.make<float>(overrides), untroubled = tiny.make<float>(overrides);
  CHECK(model->update(0).not_finite.empty());
  untroubled->update(0);
  {
    const Poison poison(model->store(), "blocks.1.moe.experts.w1", not_a_number);
    const auto before = everything(model->store());
    const UpdateReport& report = model->update(1);
    CHECK_THAT(report.not_finite, contains("\"blocks.1.moe.experts.w1\" of layer 1"));
    CHECK(report.step == 2);
    CHECK_FALSE(std::isfinite(report.loss));
    CHECK(everything(model->store()) == before);
  }
  // What routers gathered in the update that was left out is gone, too.
  for (int step = 2; step < 4; ++step) {
    const UpdateReport& report = model->update(step);
    CHECK(report.not_finite.empty());
    CHECK(report.loss == untroubled->update(step).loss);
  }
  CHECK(everything(model->store()) == everything(untroubled->store()));
}
