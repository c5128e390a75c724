// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/moe/moe_layer.hpp"
#include "support/lone_router.hpp"

#include <string>
#include <vector>

namespace kokomoe::test {

/// One MoE layer with random parameters (biases and gain too), random input and output gradient.
template <class T>
struct LayerRig {
  LayerRig(const MoeConfig& config, const std::vector<int>& lengths, const std::string& frozen = "")
      : step(lengths),
        layer(config, 2, store, "moe"),
        x(device_matrix<T>(step.tokens(), width(config), Draw(1).many<T>(size(config)))),
        dy(device_matrix<T>(step.tokens(), width(config), Draw(2).many<T>(size(config)))),
        y("y", step.tokens(), width(config)),
        dx("dx", step.tokens(), width(config)) {
    if (!frozen.empty()) store.freeze(frozen);
    store.allocate(ExecutionSpace(), 5);
    for (const auto& entry : store.entries()) {
      const auto handle = store.find(entry.spec.name);
      // By name, so that layouts can be compared.
      Draw draw(name_hash(entry.spec.name.c_str()));
      fill_device(store.value_vector(handle), draw.many<T>(entry.size, 0.8));
      if (!entry.spec.state) Kokkos::deep_copy(store.gradient_vector(handle), nan);
    }
    store.round_values(ExecutionSpace());
    Kokkos::deep_copy(y, nan);
    Kokkos::deep_copy(dx, nan);
    // Auxiliary losses divide by the whole update's tokens, of which these are a part.
    step.ctx.update_tokens = static_cast<double>(step.tokens()) + 16;
  }

  void forward(const Routing<T>* replay = nullptr) {
    step.reset();
    layer.forward(step.ctx, x, y, saved, {}, replay);
    Kokkos::fence();
  }
  void backward() {
    layer.backward(step.ctx, saved, dy, dx);
    Kokkos::fence();
  }
  std::vector<T> gradient(const std::string& name) const {
    return on_host(store.gradient_vector(store.find("moe." + name)));
  }
  std::vector<T> value(const std::string& name) const {
    return on_host(store.value_vector(store.find("moe." + name)));
  }

  static constexpr T nan = std::numeric_limits<T>::quiet_NaN();
  static std::size_t width(const MoeConfig& config) {
    return static_cast<std::size_t>(config.d_model);
  }
  std::size_t size(const MoeConfig& config) const { return step.tokens() * width(config); }

  PackedStep step;
  ParameterStore<T> store;
  MoeLayer<T> layer;
  Matrix<T> x, dy, y, dx;
  typename MoeLayer<T>::Saved saved;
};

/// d 5, h 6, E 4, one expert a token, both auxiliary losses off.
inline MoeConfig small_config(const std::string& router) {
  MoeConfig config;
  config.d_model = 5;
  config.d_hidden = 6;
  config.experts = 4;
  config.router = router;
  config.balance = 0;
  return config;
}

}  // namespace kokomoe::test
