// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/error.hpp"
#include "support/catch.hpp"
#include "support/layer_rig.hpp"

#include <cmath>

using namespace kokomoe;
using namespace kokomoe::test;

namespace {

constexpr const char* routers[] = {"switch", "sparsemixer", "top_k", "dense_mixture"};

/// y from the layer's routing and parameters, by plain loops in double.
template <class T>
std::vector<double> naive_output(const LayerRig<T>& rig) {
  const MoeConfig& c = rig.layer.config();
  const auto d = static_cast<std::size_t>(c.d_model), h = static_cast<std::size_t>(c.d_hidden);
  const auto width = static_cast<std::size_t>(first_width(c.activation, c.d_hidden));
  const auto routing = on_host(rig.saved.routing);
  const auto x = on_host(rig.x), w1 = rig.value("experts.w1"), w2 = rig.value("experts.w2");
  const auto b1 = c.bias ? rig.value("experts.b1") : std::vector<T>(w1.size(), 0);
  const auto b2 = c.bias ? rig.value("experts.b2") : std::vector<T>(w2.size(), 0);
  const auto gain = c.output_gain ? rig.value("output_gain") : std::vector<T>(d, 1);
  std::vector<double> y(x.size(), 0);
  for (std::size_t n = 0; n < routing.expert.size(); ++n) {
    const auto t = static_cast<std::size_t>(routing.token[n]);
    const auto e = static_cast<std::size_t>(routing.expert[n]);
    std::vector<double> z(width), a(h);
    for (std::size_t j = 0; j < width; ++j) {
      z[j] = static_cast<double>(b1[e * width + j]);
      for (std::size_t i = 0; i < d; ++i)
        z[j] +=
            static_cast<double>(w1[(e * width + j) * d + i]) * static_cast<double>(x[t * d + i]);
    }
    for (std::size_t j = 0; j < h; ++j) {
      if (c.activation == Activation::relu) a[j] = std::max(0.0, z[j]);
      if (c.activation == Activation::gelu) a[j] = 0.5 * z[j] * std::erfc(-z[j] / std::sqrt(2.0));
      if (c.activation == Activation::swiglu) a[j] = z[j] / (1 + std::exp(-z[j])) * z[h + j];
    }
    for (std::size_t i = 0; i < d; ++i) {
      double out = static_cast<double>(b2[e * d + i]);
      for (std::size_t j = 0; j < h; ++j)
        out += static_cast<double>(w2[(e * d + i) * h + j]) * a[j];
      y[t * d + i] += static_cast<double>(gain[i]) * static_cast<double>(routing.weight[n]) * out;
    }
  }
  return y;
}

}  // namespace

TEMPLATE_TEST_CASE("a layer's output is the weighted sum of its experts", "[layer]", float,
                   double) {
  using T = TestType;
  for (const std::string router : routers)
    for (const Activation activation : {Activation::relu, Activation::gelu, Activation::swiglu})
      for (const bool extras : {false, true}) {
        MoeConfig config = small_config(router);
        config.activation = activation;
        config.bias = config.output_gain = extras;
        config.k = router == "top_k" ? 2 : 1;
        LayerRig<T> rig(config, {20, 1, 30});
        rig.forward();
        CAPTURE(router, to_string(activation), extras);
        CHECK(worst_error(on_host(rig.y), naive_output(rig)) <
              (std::is_same_v<T, float> ? 2e-6 : 1e-13));
      }
}

TEST_CASE("activations are known by name", "[layer]") {
  for (const char* name : {"relu", "gelu", "swiglu"})
    CHECK(to_string(parse_activation(name)) == name);
  CHECK_THAT(message_of<InputError>([] { parse_activation("silu"); }),
             contains("silu") && contains("relu, gelu or swiglu"));
}

TEST_CASE("gradients add within an update and start anew with the next", "[layer]") {
  MoeConfig config = small_config("sparsemixer");
  config.bias = config.output_gain = true;
  config.balance = 0.01;
  LayerRig<double> rig(config, {9});
  const auto all = [&] {
    std::vector<double> gradients;
    for (const auto& entry : rig.store.entries())
      for (const double g : on_host(rig.store.gradient_vector(rig.store.find(entry.spec.name))))
        gradients.push_back(g);
    return gradients;
  };
  const auto pass = [&](unsigned step) {
    rig.step.ctx.step = step;
    rig.forward();
    rig.backward();
  };
  rig.store.begin_update();
  pass(1);
  const auto first = all();
  rig.store.begin_update();
  pass(2);
  const auto second = all();
  CHECK(first != second);
  rig.store.begin_update();
  pass(1);
  pass(2);
  std::vector<double> sum;
  for (std::size_t i = 0; i < first.size(); ++i) sum.push_back(first[i] + second[i]);
  CHECK(worst_error(all(), sum) < 1e-14);
  rig.store.begin_update();
  pass(1);
  CHECK(all() == first);
}

TEST_CASE("an expert without tokens has a zero gradient", "[layer]") {
  MoeConfig config = small_config("switch");
  config.bias = true;
  LayerRig<double> rig(config, {9});
  rig.forward();
  const Routing<double> recorded = rig.saved.routing.clone(ExecutionSpace());
  Kokkos::deep_copy(recorded.expert, 2);  // overridden: every token to expert 2
  rig.forward(&recorded);
  CHECK(on_host(rig.saved.plan.counts) == std::vector<int>{0, 0, 9, 0});
  CHECK(worst_error(on_host(rig.y), naive_output(rig)) < 1e-13);
  rig.store.begin_update();
  rig.backward();
  for (const std::string name : {"experts.w1", "experts.w2", "experts.b1", "experts.b2"}) {
    const auto gradient = rig.gradient(name);
    const std::size_t size = gradient.size() / 4;
    CAPTURE(name);
    for (std::size_t i = 0; i < gradient.size(); ++i)
      if (i / size != 2) CHECK(gradient[i] == 0);
    CHECK(largest(gradient) > 1e-3);
  }
  // A second backward without those experts leaves what they have.
  Kokkos::deep_copy(rig.store.expert_gradient(rig.store.find("moe.experts.w1"), 0), 7.0);
  rig.backward();
  CHECK(rig.gradient("experts.w1")[3] == 7.0);
}

TEMPLATE_TEST_CASE("no tokens go forward and backward", "[layer]", float, double) {
  for (const std::string router : routers) {
    MoeConfig config = small_config(router);
    config.bias = config.output_gain = true;
    config.balance = 0.01;
    config.z_loss = 0.001;
    LayerRig<TestType> rig(config, {});
    for (const double update_tokens : {0.0, 10.0}) {
      rig.step.ctx.update_tokens = update_tokens;
      rig.store.begin_update();
      rig.forward();
      rig.backward();
      CAPTURE(router);
      for (const auto& entry : rig.store.entries())
        for (const TestType g : on_host(rig.store.gradient_vector(rig.store.find(entry.spec.name))))
          CHECK(g == 0);
    }
  }
}

TEST_CASE("a recorded routing replays to the same bits, whatever the step", "[layer]") {
  for (const std::string router : routers) {
    LayerRig<float> rig(small_config(router), {20, 13});
    rig.forward();
    const Routing<float> recorded = rig.saved.routing.clone(ExecutionSpace());
    const auto y = on_host(rig.y);
    rig.step.ctx.step += 1;
    rig.step.ctx.seed += 1;
    rig.forward(&recorded);
    CAPTURE(router);
    CHECK(on_host(rig.y) == y);
    if (router == "sparsemixer") {
      rig.forward();
      CHECK(on_host(rig.y) != y);
    }
  }
}

TEST_CASE("the same step gives the same bits", "[layer]") {
  MoeConfig config = small_config("sparsemixer");
  config.bias = config.output_gain = true;
  config.balance = 0.01;
  LayerRig<float> a(config, {300, 200}), b(config, {300, 200});
  for (LayerRig<float>* rig : {&a, &b}) {
    rig->forward();
    rig->backward();
  }
  CHECK(on_host(a.y) == on_host(b.y));
  CHECK(on_host(a.dx) == on_host(b.dx));
  CHECK(a.gradient("router.weight") == b.gradient("router.weight"));
  CHECK(a.gradient("experts.w1") == b.gradient("experts.w1"));
}

TEST_CASE("experts that run again in backward give the same bits and keep less", "[layer]") {
  for (const RouterInfo& router : router_registry()) {
    for (const ExpertKernels kernels : {ExpertKernels::automatic, ExpertKernels::gemm}) {
      INFO(router.name << ", " << to_string(kernels));
      MoeConfig config = small_config(router.name);
      config.k = router.takes_k ? 2 : router.defaults.k;
      config.kernels = kernels;
      config.bias = config.output_gain = true;
      config.shared_experts = 1;
      config.allow_future = true;
      config.vocabulary = 11;
      config.d_hidden = 64;
      LayerRig<float> kept(config, {70, 30});
      config.recompute = true;
      LayerRig<float> again(config, {70, 30});
      std::size_t bytes[2]{};
      for (LayerRig<float>* rig : {&kept, &again}) {
        rig->step.ctx.tokens.ids = device_vector(std::vector<int>(100, 3));
        rig->step.ctx.sequence_loss = device_vector(std::vector<double>{0.5, 2});
        rig->forward();
        bytes[rig == &again] = rig->step.ctx.saved->mark().used;
        rig->backward();
      }
      // Hidden channels of the routed and of the shared experts.
      CHECK(bytes[1] + 100 * (64 + 64) * sizeof(float) <= bytes[0]);
      CHECK(again.step.ctx.saved->mark().used == bytes[1]);
      CHECK(on_host(kept.y) == on_host(again.y));
      CHECK(on_host(kept.dx) == on_host(again.dx));
      for (const auto& entry : kept.store.entries()) {
        if (entry.spec.state) continue;
        INFO(entry.spec.name);
        const auto gradient = [&](const LayerRig<float>& rig) {
          return on_host(rig.store.gradient_vector(rig.store.find(entry.spec.name)));
        };
        CHECK(gradient(kept) == gradient(again));
      }
    }
  }
}

TEST_CASE("evaluation draws nothing", "[layer]") {
  LayerRig<float> rig(small_config("sparsemixer"), {40});
  rig.step.ctx.training = false;
  rig.forward();
  const auto y = on_host(rig.y);
  const auto routing = on_host(rig.saved.routing);
  for (const float scale : routing.scale) CHECK(scale == 1.0f);
  rig.step.ctx.step += 1;
  rig.step.ctx.seed += 1;
  rig.forward();
  CHECK(on_host(rig.y) == y);
}

TEST_CASE("frozen tensors move to the end of their buffer and change no gradient", "[layer]") {
  MoeConfig config = small_config("switch");
  config.bias = true;
  LayerRig<double> free(config, {9}), frozen(config, {9}, "*.router.*");
  for (LayerRig<double>* rig : {&free, &frozen}) {
    rig->forward();
    rig->backward();
  }
  CHECK(frozen.store.entry(frozen.store.find("moe.router.weight")).frozen);
  CHECK(on_host(frozen.y) == on_host(free.y));
  CHECK(on_host(frozen.dx) == on_host(free.dx));
  CHECK(frozen.gradient("experts.w1") == free.gradient("experts.w1"));
  const auto& buffer = frozen.store.buffer(ParameterStore<double>::Group::replicated);
  CHECK(buffer.trained == 0);
}

TEST_CASE("an output gain of ones is no gain", "[layer]") {
  MoeConfig config = small_config("switch");
  LayerRig<double> without(config, {9});
  config.output_gain = true;
  LayerRig<double> with(config, {9});
  Kokkos::deep_copy(with.store.value_vector(with.store.find("moe.output_gain")), 1.0);
  with.forward();
  without.forward();
  CHECK(on_host(with.y) == on_host(without.y));
}

TEST_CASE("a layer refuses what does not go together", "[layer]") {
  const auto refusal = [](const MoeConfig& config) {
    return message_of<Error>([&] {
      ParameterStore<float> store;
      MoeLayer<float>(config, 0, store, "moe");
    });
  };
  MoeConfig config = small_config("switch");
  config.k = 2;
  CHECK_THAT(refusal(config), contains("k must be 1"));
  config = small_config("swich");
  CHECK_THAT(refusal(config), contains("switch"));
  config = small_config("switch");
  config.d_hidden = 0;
  CHECK_THAT(refusal(config), contains("d_hidden 0"));
  CHECK_THAT(message_of<Error>([] {
               PackedStep step({9});
               ParameterStore<float> shard(1, 2);
               const MoeLayer<float> layer(small_config("switch"), 0, shard, "moe");
               shard.allocate(ExecutionSpace(), 1);
               MoeLayer<float>::Saved saved;
               layer.forward(step.ctx, Matrix<float>("x", 9, 5), Matrix<float>("y", 9, 5), saved);
             }),
             contains("owns experts 2 to 4 of 4"));

  LayerRig<float> rig(small_config("switch"), {9});
  const Matrix<float> narrow("narrow", 9, 4), shallow("shallow", 8, 5);
  const auto forward = [&](const Matrix<float>& in, const Matrix<float>& out) {
    return message_of<Error>([&] { rig.layer.forward(rig.step.ctx, in, out, rig.saved); });
  };
  CHECK_THAT(forward(narrow, rig.y), contains("x has shape (9, 4), expected (9, 5)"));
  CHECK_THAT(forward(rig.x, shallow), contains("y has shape (8, 5), expected (9, 5)"));
  rig.forward();
  CHECK_THAT(
      message_of<Error>([&] { rig.layer.backward(rig.step.ctx, rig.saved, shallow, rig.dx); }),
      contains("dy has shape (8, 5), expected (9, 5)"));
}

TEST_CASE("misuse is refused with its reason", "[layer]") {
  MoeConfig config = small_config("sparsemixer");
  config.balance = 0.01;
  LayerRig<float> rig(config, {7});
  rig.forward();
  const Routing<float> other = rig.saved.routing.clone(ExecutionSpace());
  LayerRig<float> longer(config, {9});
  typename MoeLayer<float>::Saved saved;
  CHECK_THAT(message_of<Error>([&] {
               longer.layer.forward(longer.step.ctx, longer.x, longer.y, saved, {}, &other);
             }),
             contains("7 tokens"));
  CHECK_THAT(
      message_of<Error>([&] { longer.layer.forward(longer.step.ctx, longer.x, longer.x, saved); }),
      contains("y is x"));
  longer.forward();
  longer.step.ctx.update_tokens = 0;
  CHECK_THAT(message_of<Error>([&] { longer.backward(); }), contains("update_tokens"));

  ParameterStore<float> store;
  const auto handle = store.add({"w", {2, 2}, Initializer::constant(0)});
  CHECK_THAT(message_of<Error>([&] { store.value(handle); }), contains("before allocate"));
  store.allocate(ExecutionSpace(), 1);
  CHECK_THAT(message_of<Error>([&] { store.value({}); }), contains("handle"));
}
