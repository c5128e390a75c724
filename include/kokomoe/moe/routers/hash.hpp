// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/moe/router_registry.hpp"

namespace kokomoe {

/// One expert by token id, with weight 1 and without parameters (Hash Layers, Roller et al. 2021,
/// arXiv 2106.04426). table = "modulo": id mod E; "random": drawn for each id and layer; "balanced":
/// the most frequent ids first, each to the expert with the fewest tokens so far. The last two need
/// the vocabulary, balanced the token counts too; their table is the state NAME.table (V).
template <class T>
class HashRouter final : public Router<T> {
 public:
  static RouterInfo info();
  HashRouter(const RouterPlace& place, const RouterOptions& options, ParameterStore<T>& store);

  int max_slots(int tokens) const override { return tokens; }
  int logit_columns() const override { return 0; }
  Matrix<T> project(const StepContext& ctx, const Matrix<const T>& x) const override;
  Routing<T> route_logits(const StepContext& ctx, const Matrix<const T>& z,
                          const Routing<T>* replay) const override;
  void logits_backward(const StepContext&, const Matrix<const T>&, const Routing<T>&,
                       const RouterFeedback<T>&, const Matrix<T>&) const override {}
  void project_backward(const StepContext&, const Matrix<const T>&, const Matrix<const T>&,
                        const Matrix<T>&) const override {}

 private:
  ParameterHandle table_;  ///< invalid: modulo
};

/// (V) an expert for each token id: by falling count (lowest id among equals), each to the expert
/// with the smallest sum of counts so far, then the fewest ids, then the lowest index.
std::vector<double> balanced_hash_table(const std::vector<std::int64_t>& token_counts, int experts);

}  // namespace kokomoe
