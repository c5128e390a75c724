// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/moe/router_registry.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/moe/routers/base.hpp"
#include "kokomoe/moe/routers/deepseek_v3.hpp"
#include "kokomoe/moe/routers/default_moe.hpp"
#include "kokomoe/moe/routers/dense_mixture.hpp"
#include "kokomoe/moe/routers/euler.hpp"
#include "kokomoe/moe/routers/expert_choice.hpp"
#include "kokomoe/moe/routers/gshard.hpp"
#include "kokomoe/moe/routers/hash.hpp"
#include "kokomoe/moe/routers/heun.hpp"
#include "kokomoe/moe/routers/midpoint.hpp"
#include "kokomoe/moe/routers/noisy_top_k.hpp"
#include "kokomoe/moe/routers/quantile_balance.hpp"
#include "kokomoe/moe/routers/reinforce.hpp"
#include "kokomoe/moe/routers/reinmax.hpp"
#include "kokomoe/moe/routers/remoe.hpp"
#include "kokomoe/moe/routers/s_base.hpp"
#include "kokomoe/moe/routers/sparsemixer.hpp"
#include "kokomoe/moe/routers/sparsemixer_v2.hpp"
#include "kokomoe/moe/routers/sparsemixer_v2_star.hpp"
#include "kokomoe/moe/routers/straight_through.hpp"
#include "kokomoe/moe/routers/switch.hpp"
#include "kokomoe/moe/routers/top_k.hpp"
#include "kokomoe/moe/routers/uniform_path.hpp"
#include "kokomoe/moe/routers/xmoe.hpp"

namespace kokomoe {

namespace {

template <class T>
using Factory = std::unique_ptr<Router<T>> (*)(const RouterPlace&, const RouterOptions&,
                                               ParameterStore<T>&);

struct Registered {
  RouterInfo info;
  Factory<float> make_float;
  Factory<double> make_double;
};

template <template <class> class R, class T>
std::unique_ptr<Router<T>> construct(const RouterPlace& place, const RouterOptions& options,
                                     ParameterStore<T>& store) {
  return std::make_unique<R<T>>(place, options, store);
}

template <template <class> class R>
Registered registered() {
  return {R<float>::info(), construct<R, float>, construct<R, double>};
}

/// One line for each router.
const std::vector<Registered>& all() {
  static const std::vector<Registered> routers = {
      registered<SparseMixerRouter>(),
      registered<SparseMixerV2Router>(),
      registered<SparseMixerV2StarRouter>(),
      registered<EulerRouter>(),
      registered<MidpointRouter>(),
      registered<HeunRouter>(),
      registered<UniformPathRouter>(),
      registered<ReinforceRouter>(),
      registered<StraightThroughRouter>(),
      registered<ReinMaxRouter>(),
      registered<SwitchRouter>(),
      registered<TopKRouter>(),
      registered<NoisyTopKRouter>(),
      registered<XMoeRouter>(),
      registered<DeepSeekV3Router>(),
      registered<RemoeRouter>(),
      registered<DefaultMoeRouter>(),
      registered<HashRouter>(),
      registered<GShardRouter>(),
      registered<BaseRouter>(),
      registered<SBaseRouter>(),
      registered<ExpertChoiceRouter>(),
      registered<QuantileBalanceRouter>(),
      registered<DenseMixtureRouter>(),
  };
  return routers;
}

const Registered& find(const std::string& name) {
  std::vector<std::string> names;
  for (const Registered& router : all()) {
    if (router.info.name == name) return router;
    names.push_back(router.info.name);
  }
  std::string list;
  for (const std::string& known : names) list += (list.empty() ? "" : ", ") + known;
  const std::string nearest = nearest_name(name, names);
  throw InputError("unknown router \"" + name + "\"" +
                   (nearest.empty() ? "" : ": did you mean \"" + nearest + "\"?") +
                   " (known: " + list + ")");
}

}  // namespace

const std::vector<RouterInfo>& router_registry() {
  static const std::vector<RouterInfo> infos = [] {
    std::vector<RouterInfo> result;
    for (const Registered& router : all()) result.push_back(router.info);
    return result;
  }();
  return infos;
}

const RouterInfo& router_info(const std::string& name) {
  return find(name).info;
}

std::optional<Refusal> impossible_router(const std::string& name, const RouterPlace& place,
                                         const RouterOptions& options) {
  const RouterInfo& router = router_info(name);
  const RouterOptions full = options.completed(name, router.options);
  const std::string who = "router \"" + name + "\": ";
  if (place.k < 1 || place.k > place.experts)
    return Refusal{"k", who + "k = " + std::to_string(place.k) + " of " +
                            std::to_string(place.experts) + " experts"};
  if (!router.takes_k && place.k != router.defaults.k)
    return Refusal{"k", who + "k must be " + std::to_string(router.defaults.k) + ", not " +
                            std::to_string(place.k)};
  return router.check != nullptr ? router.check(place, full) : std::nullopt;
}

template <class T>
std::unique_ptr<Router<T>> make_router(const std::string& name, const RouterPlace& place,
                                       const RouterOptions& options, ParameterStore<T>& store) {
  const Registered& router = find(name);
  if (const auto refusal = impossible_router(name, place, options))
    throw InputError(refusal->reason);
  const RouterOptions full = options.completed(name, router.info.options);
  if constexpr (std::is_same_v<T, float>)
    return router.make_float(place, full, store);
  else
    return router.make_double(place, full, store);
}

template std::unique_ptr<Router<float>> make_router<float>(const std::string&, const RouterPlace&,
                                                           const RouterOptions&,
                                                           ParameterStore<float>&);
template std::unique_ptr<Router<double>> make_router<double>(const std::string&, const RouterPlace&,
                                                             const RouterOptions&,
                                                             ParameterStore<double>&);

}  // namespace kokomoe
