// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/config.hpp"
#include "support/communicator.hpp"

#ifdef KOKOMOE_HAVE_HDF5

#include "kokomoe/core/error.hpp"
#include "support/catch.hpp"
#include "support/tiny_training.hpp"

#include <algorithm>
#include <limits>
#include <memory>
#include <string>
#include <vector>

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

/// A model whose experts all ranks share.
std::unique_ptr<LanguageModel<float>> make(const TinyTraining& tiny,
                                           std::vector<std::string> overrides) {
  overrides.push_back("parallel/expert_ranks=0");
  return std::make_unique<LanguageModel<float>>(tiny.config(overrides), communicator(),
                                                tiny.corpus("train.txt"));
}

/// One value of a tensor of this rank becomes NaN; returns what it was.
float poison(LanguageModel<float>& model, const std::string& name, float value) {
  const Vector<float> tensor = model.store().value_vector(model.store().find(name));
  std::vector<float> values = on_host(tensor);
  const float before = values.at(1);
  values[1] = value;
  fill_device(tensor, values);
  return before;
}

/// What every rank says, by rank.
std::vector<std::string> from_all(const std::string& text) {
  const Communicator& ranks = communicator();
  std::vector<char> own(4096, '\0'), all(own.size() * static_cast<std::size_t>(ranks.size()));
  std::copy(text.begin(), text.end(), own.begin());
  ranks.all_gather(own.data(), own.size(), all.data());
  std::vector<std::string> texts;
  for (int r = 0; r < ranks.size(); ++r)
    texts.emplace_back(all.data() + own.size() * static_cast<std::size_t>(r));
  return texts;
}

constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();

}  // namespace

TEST_CASE("what is not finite on one rank alone is named alike on all", "[non_finite]") {
  const Communicator& ranks = communicator();
  const TinyTraining tiny;
  const auto model = make(tiny, {"moe/experts=4"});
  model->update(0);
  const int last = ranks.size() - 1;
  if (ranks.rank() == last) poison(*model, "blocks.1.moe.experts.w1", not_a_number);
  const auto before = all_values(model->store());
  const std::string message = message_of<Error>([&] { model->update(1); });
  for (const std::string& other : from_all(message)) CHECK(other == message);
  CHECK_THAT(message, contains("update 2: "));
  CHECK_THAT(message, contains("first parameter that is not finite: \"blocks.1.moe.experts.w1\" of "
                               "layer 1 (1 of "));
  // A NaN differs from itself: all but that tensor.
  const auto after = all_values(model->store());
  for (std::size_t i = 0; i < before.size(); ++i)
    if (model->store().entries()[i].spec.name != "blocks.1.moe.experts.w1")
      CHECK(before[i] == after[i]);
}

TEST_CASE("all ranks leave an update out together", "[non_finite]") {
  const Communicator& ranks = communicator();
  const TinyTraining tiny;
  const std::string router = GENERATE("sparsemixer", "default_moe", "reinforce");
  INFO(router);
  const std::vector<std::string> overrides{"moe/router=" + router, "train/on_non_finite=skip",
                                           "moe/experts=4"};
  const auto model = make(tiny, overrides), untroubled = make(tiny, overrides);
  model->update(0);
  untroubled->update(0);
  const int last = ranks.size() - 1;
  const std::string name = "blocks.0.moe.experts.w1";
  float kept = 0;
  if (ranks.rank() == last) kept = poison(*model, name, not_a_number);
  CHECK_THAT(model->update(1).not_finite, contains("\"" + name + "\" of layer 0 (1 of "));
  if (ranks.rank() == last) poison(*model, name, kept);
  const double expected = untroubled->update(2).loss;
  const UpdateReport& report = model->update(2);
  CHECK(report.not_finite.empty());
  CHECK(report.loss == expected);
  CHECK(all_values(model->store()) == all_values(untroubled->store()));
}

#endif
