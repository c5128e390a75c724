// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/moe/router.hpp"

#include <memory>
#include <string>
#include <vector>

namespace kokomoe {

/// What a router says of itself. Each router has `static RouterInfo info()`.
struct RouterInfo {
  std::string name;     ///< as in a deck: moe/router = "NAME"
  std::string summary;  ///< one line
  std::string paper;    ///< where it was published
  std::vector<RouterOption> options{};
  /// Looks at other tokens, so it leaks future ones in a causal model.
  bool batch_coupled = false;
  /// May carry the load-balance loss.
  bool balance_loss = true;
  /// Takes moe/k > 1; otherwise k must be 1.
  bool takes_k = false;
};

/// Every router, in the order of the docs.
const std::vector<RouterInfo>& router_registry();

/// The entry called `name`; throws InputError with the nearest name.
const RouterInfo& router_info(const std::string& name);

/// Makes the router called `name` and registers its tensors. Throws InputError when options or k
/// do not suit it. T: float, double.
template <class T>
std::unique_ptr<Router<T>> make_router(const std::string& name, const RouterPlace& place,
                                       const RouterOptions& options, ParameterStore<T>& store);

}  // namespace kokomoe
