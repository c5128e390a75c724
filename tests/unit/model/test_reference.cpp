// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "reference_case.hpp"
#include "support/catch.hpp"

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

/// What the reference chose in every step of one layer: (steps, slots).
std::vector<int> chosen(const ReferenceCase<double>& c, int layer, std::size_t step) {
  const std::vector<int> all = c.file.i4(c.at("experts/layer" + std::to_string(layer)));
  const std::size_t slots = all.size() / 10;
  return {all.begin() + static_cast<std::ptrdiff_t>(step * slots),
          all.begin() + static_cast<std::ptrdiff_t>((step + 1) * slots)};
}

/// Errors of a tensor whose true gradient is zero are counted against this.
constexpr double gradient_floor = 1e-3;

}  // namespace

TEST_CASE("a language model's parameters have the reference's names, shapes and decay", "[model]") {
  for (const char* name : {"A", "B", "C", "D", "E", "F"}) {
    INFO("case " << name);
    ReferenceCase<double> c(name);
    const std::vector<std::string> expected = c.file.names(c.at("initial/"));
    CHECK(c.store.entries().size() == expected.size());
    for (const std::string& record : expected) {
      const std::string parameter = record.substr(c.at("initial/").size());
      INFO(parameter);
      const ParameterHandle handle = c.store.find(parameter);
      REQUIRE(handle.valid());
      CHECK(c.store.entry(handle).spec.shape == c.file.shape(record));
      const auto ends = [&](const std::string& part) {
        return parameter.size() >= part.size() &&
               parameter.compare(parameter.size() - part.size(), part.size(), part) == 0;
      };
      const bool free = ends(".bias") || ends(".b1") || ends(".b2") || ends("norm.weight") ||
                        ends(".output_gain");
      CHECK(c.store.entry(handle).spec.decay == !free);
    }
  }
}

TEST_CASE("logits, choices, losses and every gradient agree with the torch reference", "[model]") {
  for (const char* name : {"A", "B", "C", "D", "E", "F"}) {
    INFO("case " << name);
    ReferenceCase<double> c(name);

    c.step->ctx.training = false;
    CHECK(worst_error(on_host(c.forward()), c.file.f8(c.at("eval_logits"))) < 1e-12);
    c.step->ctx.training = true;

    std::vector<double> logits;
    const std::vector<double> losses = c.forward_backward(0, &logits);
    CHECK(worst_error(logits, c.file.f8(c.at("logits"))) < 1e-12);
    const std::vector<double> all = c.file.f8(c.at("losses"));
    for (std::size_t i = 0; i < 3; ++i) CHECK(std::abs(losses[i] - all[i]) < 1e-12);

    for (std::size_t i = 0; i < c.model->blocks().size(); ++i) {
      if (c.model->blocks()[i].moe() == nullptr) continue;
      INFO("layer " << i);
      const auto& moe = c.saved.blocks[i].moe;
      const std::string at = c.at("step0/layer" + std::to_string(i) + "/");
      CHECK(on_host(moe.routing.expert) == c.file.i4(at + "expert"));
      CHECK(worst_error(on_host(moe.routing.weight), c.file.f8(at + "weight")) < 1e-12);
      CHECK(worst_error(on_host(moe.logits), c.file.f8(at + "router_logits")) < 1e-12);
    }
    for (const auto& entry : c.store.entries()) {
      INFO(entry.spec.name);
      const auto gradient = on_host(c.store.gradient_vector(c.store.find(entry.spec.name)));
      CHECK(worst_error(gradient, c.file.f8(c.at("gradient/" + entry.spec.name)), gradient_floor) <
            1e-12);
    }
    CHECK(std::abs(gradient_norm<double>(c.step->ctx.space, c.step->scratch, c.store) -
                   c.file.f8(c.at("gradient_norms"))[0]) < 1e-12);
  }
}

TEST_CASE("ten updates follow the torch reference to the last parameter", "[model]") {
  for (const char* name : {"A", "B", "C", "D", "E", "F"}) {
    INFO("case " << name);
    ReferenceCase<double> c(name);
    const std::vector<double> losses = c.file.f8(c.at("losses"));
    const std::vector<double> norms = c.file.f8(c.at("gradient_norms"));
    bool clipped = false;
    for (std::size_t s = 0; s < 10; ++s) {
      INFO("step " << s);
      const std::vector<double> loss = c.forward_backward(s);
      for (std::size_t i = 0; i < 3; ++i) CHECK(std::abs(loss[i] - losses[3 * s + i]) < 1e-11);
      for (std::size_t i = 0; i < c.model->blocks().size(); ++i)
        if (c.model->blocks()[i].moe() != nullptr)
          CHECK(on_host(c.saved.blocks[i].moe.routing.expert) == chosen(c, static_cast<int>(i), s));
      const double norm = gradient_norm<double>(c.step->ctx.space, c.step->scratch, c.store);
      CHECK(std::abs(norm - norms[s]) < 1e-11);
      const double factor = clip_factor(norm, c.number("clip"));
      clipped = clipped || factor < 1;
      adamw_step<double>(c.step->ctx.space, c.optimizer, c.number("learning_rate"), factor,
                         static_cast<std::int64_t>(s) + 1, c.store);
    }
    CHECK(clipped == (name != std::string("D")));
    for (const auto& entry : c.store.entries()) {
      INFO(entry.spec.name);
      const auto value = on_host(c.store.value_vector(c.store.find(entry.spec.name)));
      CHECK(worst_error(value, c.file.f8(c.at("final/" + entry.spec.name)), 1.0) < 1e-9);
    }
  }
}

TEST_CASE("in float, logits, losses and gradients stay within 1e-4 of the reference", "[model]") {
  // Choices do not hang on rounding here: the margin is stored and large enough for float.
  for (const char* name : {"A", "B", "C", "D", "E", "F"}) {
    INFO("case " << name);
    ReferenceCase<float> c(name);
    c.step->ctx.training = false;
    CHECK(worst_error(on_host(c.forward()), c.file.f8(c.at("eval_logits"))) < 1e-5);
    c.step->ctx.training = true;
    std::vector<float> logits;
    const std::vector<double> losses = c.forward_backward(0, &logits);
    CHECK(worst_error(logits, c.file.f8(c.at("logits"))) < 1e-5);
    const std::vector<double> all = c.file.f8(c.at("losses"));
    for (std::size_t i = 0; i < 3; ++i) CHECK(std::abs(losses[i] - all[i]) < 1e-5);
    for (const auto& entry : c.store.entries()) {
      INFO(entry.spec.name);
      const auto gradient = on_host(c.store.gradient_vector(c.store.find(entry.spec.name)));
      CHECK(worst_error(gradient, c.file.f8(c.at("gradient/" + entry.spec.name)), gradient_floor) <
            1e-4);
    }
  }
}

TEST_CASE("in float, ten updates lower the loss as the reference does", "[model]") {
  for (const char* name : {"B", "E"}) {
    INFO("case " << name);
    ReferenceCase<float> c(name);
    const std::vector<double> losses = c.file.f8(c.at("losses"));
    for (std::size_t s = 0; s < 10; ++s) {
      INFO("step " << s);
      CHECK(std::abs(c.forward_backward(s)[0] - losses[3 * s]) < 2e-4);
      const double norm = gradient_norm<float>(c.step->ctx.space, c.step->scratch, c.store);
      adamw_step<float>(c.step->ctx.space, c.optimizer, c.number("learning_rate"),
                        clip_factor(norm, c.number("clip")), static_cast<std::int64_t>(s) + 1,
                        c.store);
    }
  }
}
