// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "kokomoe/moe/router.hpp"

#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace kokomoe {

/// Why a combination of settings is impossible: the deck's key at fault, without its section.
struct Refusal {
  std::string key;
  std::string reason;
};

/// Values that keys common to all routers take when a deck does not set them.
struct RouterDefaults {
  int k = 1;
  double balance = 0.01;
  std::string balance_scope = "global";
  bool output_gain = false;
};

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
  /// Has logits (the z-loss needs them); table routers have none.
  bool logits = true;
  /// Takes any moe/k; otherwise k must be defaults.k.
  bool takes_k = false;
  /// k is what training aims at on average; a token may have any number of experts.
  bool k_is_target = false;
  /// Token choice with a fixed number of slots, so that moe/capacity_factor may drop some.
  bool takes_capacity = false;
  /// Its experts choose tokens up to moe/capacity_factor themselves; nothing is dropped afterwards.
  bool own_capacity = false;
  /// Adds up over tokens in ways that do not show how sequences lie on ranks and threads
  /// (parallel/deterministic); not so where the router has sums of its own.
  bool layout_free = true;
  RouterDefaults defaults{};
  /// What else may be impossible, given completed options; null = nothing.
  std::optional<Refusal> (*check)(const RouterPlace&, const RouterOptions&) = nullptr;
};

/// Every router, in the order of the docs.
const std::vector<RouterInfo>& router_registry();

/// The entry called `name`; throws InputError with the nearest name.
const RouterInfo& router_info(const std::string& name);

/// Why the router called `name` cannot stand there with these options, or nothing. Throws InputError
/// for unknown names and options.
std::optional<Refusal> impossible_router(const std::string& name, const RouterPlace& place,
                                         const RouterOptions& options);

/// Makes the router called `name` and registers its tensors. Throws InputError when options or k
/// do not suit it. T: float, double.
template <class T>
std::unique_ptr<Router<T>> make_router(const std::string& name, const RouterPlace& place,
                                       const RouterOptions& options, ParameterStore<T>& store);

}  // namespace kokomoe
