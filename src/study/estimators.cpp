// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/core/error.hpp"
#include "kokomoe/study/fidelity.hpp"

#include <algorithm>

namespace kokomoe {

namespace {

bool takes(const RouterInfo& router, const std::string& option) {
  return std::any_of(router.options.begin(), router.options.end(),
                     [&](const RouterOption& known) { return known.name == option; });
}

std::string router_of(const std::string& estimator) {
  return estimator == "conventional" ? "euler" : estimator;
}

/// True for routers that draw; made once in a store of its own to ask.
bool draws(const RouterInfo& router) {
  if (router.batch_coupled) return false;
  ParameterStore<double> store;
  RouterPlace place;
  place.d_model = 2;
  place.experts = std::max(4, router.defaults.k);
  place.k = router.defaults.k;
  place.name = "router";
  if (impossible_router(router.name, place, {})) return false;
  return make_router<double>(router.name, place, {}, store)->estimator().objective !=
         Objective::none;
}

}  // namespace

std::vector<std::string> estimator_names() {
  std::vector<std::string> names = {"conventional"};
  for (const RouterInfo& router : router_registry())
    if (draws(router)) names.push_back(router.name);
  return names;
}

bool has_argmax_exception(const std::string& estimator) {
  return takes(router_info(router_of(estimator)), "argmax_exception");
}

EstimatorForm estimator_form(const std::string& name, bool argmax_exception) {
  const std::vector<std::string> names = estimator_names();
  if (std::find(names.begin(), names.end(), name) == names.end()) {
    const std::string nearest = nearest_name(name, names);
    std::string list;
    for (const std::string& known : names) list += (list.empty() ? "" : ", ") + known;
    throw InputError("unknown estimator \"" + name + "\"" +
                     (nearest.empty() ? "" : ": did you mean \"" + nearest + "\"?") +
                     " (known: " + list + ")");
  }
  EstimatorForm form;
  form.name = name;
  form.router = router_of(name);
  form.argmax_exception = argmax_exception;
  const RouterInfo& router = router_info(form.router);
  // Masks hide experts from the gate, and a temperature changes its law: both off, so that all
  // estimators are judged against the same objective.
  if (takes(router, "mask_eps")) form.options.set("mask_eps", 0.0);
  if (takes(router, "temperature")) form.options.set("temperature", 1.0);
  if (takes(router, "argmax_exception")) form.options.set("argmax_exception", argmax_exception);
  if (name == "conventional") form.options.set("grad_factor", 1.0);
  return form;
}

}  // namespace kokomoe
