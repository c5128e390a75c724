// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/moe/router_registry.hpp"
#include "support/packed_step.hpp"

#include <memory>
#include <string>
#include <vector>

namespace kokomoe::test {

/// A Routing on the host.
template <class T>
struct HostRouting {
  std::vector<int> token, expert, kept;
  std::vector<T> weight, probability, scale, expert_gradient_weight;
  int slots_per_token = 0;
};

template <class T>
HostRouting<T> on_host(const Routing<T>& routing) {
  Kokkos::fence();
  HostRouting<T> host;
  host.token = on_host(routing.token);
  host.expert = on_host(routing.expert);
  for (const unsigned char k : on_host(routing.kept)) host.kept.push_back(k);
  host.weight = on_host(routing.weight);
  host.probability = on_host(routing.probability);
  host.scale = on_host(routing.scale);
  host.expert_gradient_weight = on_host(routing.expert_gradient_weight);
  host.slots_per_token = routing.slots_per_token;
  return host;
}

/// A router without a layer around it, fed with logits.
template <class T>
class LoneRouter {
 public:
  LoneRouter(const std::string& name, int experts, int k, const RouterOptions& options = {},
             int layer = 0)
      : LoneRouter(name, RouterPlace{2, experts, k, layer, "router"}, options) {}
  LoneRouter(const std::string& name, const RouterPlace& place, const RouterOptions& options = {})
      : experts_(static_cast<std::size_t>(place.experts)),
        router_(make_router<T>(name, place, options, store_)) {
    store_.allocate(ExecutionSpace(), 1);
  }

  /// Empties the step's arenas first.
  Routing<T> route(PackedStep& step, const std::vector<T>& logits,
                   const Routing<T>* replay = nullptr) {
    step.reset();
    const auto columns = static_cast<std::size_t>(router_->logit_columns());
    logits_ = device_matrix<T>(columns == 0 ? step.tokens() : logits.size() / columns, columns,
                               logits);
    return router_->route_logits(step.ctx, logits_, replay);
  }

  /// Adds dL/dlogits to `d_logits`. An empty d_probability: no auxiliary loss; an empty d_output:
  /// zeros.
  void backward(PackedStep& step, const Routing<T>& routing, const std::vector<T>& d_weight,
                const std::vector<T>& d_probability, const Matrix<T>& d_logits,
                const std::vector<T>& d_output = {}) {
    RouterFeedback<T> feedback;
    feedback.d_weight = device_vector(d_weight);
    const Matrix<T> d_y("d_output", step.tokens(),
                        static_cast<std::size_t>(router_->place().d_model));
    if (!d_output.empty()) fill_device(d_y, d_output);
    feedback.d_output = d_y;
    if (!d_probability.empty())
      feedback.d_probability = device_matrix<T>(logits_.extent(0), experts_, d_probability);
    router_->logits_backward(step.ctx, logits_, routing, feedback, d_logits);
    Kokkos::fence();
  }

  Router<T>& router() { return *router_; }
  ParameterStore<T>& store() { return store_; }
  void set(const std::string& tensor, const std::vector<T>& values) {
    fill_device(store_.value_vector(store_.find("router." + tensor)), values);
  }
  std::vector<T> get(const std::string& tensor) {
    Kokkos::fence();
    return on_host(store_.value_vector(store_.find("router." + tensor)));
  }

 private:
  std::size_t experts_;
  ParameterStore<T> store_;
  std::unique_ptr<Router<T>> router_;
  Matrix<T> logits_;
};

/// `row` for each of a step's tokens.
template <class T>
std::vector<T> repeated(const std::vector<T>& row, std::size_t tokens) {
  std::vector<T> rows;
  rows.reserve(row.size() * tokens);
  for (std::size_t t = 0; t < tokens; ++t) rows.insert(rows.end(), row.begin(), row.end());
  return rows;
}

}  // namespace kokomoe::test
