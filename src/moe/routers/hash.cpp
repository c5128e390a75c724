// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/moe/routers/hash.hpp"

#include "kokomoe/core/error.hpp"

#include <algorithm>
#include <numeric>
#include <set>
#include <tuple>

namespace kokomoe {

namespace {

template <class T>
ParameterHandle add_table(const RouterPlace& place, const std::string& rule,
                          ParameterStore<T>& store) {
  if (rule == "modulo") return {};
  const std::string who = "router \"hash\": table = \"" + rule + "\" needs ";
  if (place.vocabulary < 1) throw InputError(who + "the size of the vocabulary");
  const auto vocabulary = static_cast<std::size_t>(place.vocabulary);
  // As a share of E: an expert for each id when rounded down.
  Initializer initializer = Initializer::uniform(1);
  if (rule == "balanced") {
    if (place.token_counts == nullptr)
      throw InputError(who + "the number of times that each token occurs");
    if (place.token_counts->size() != vocabulary)
      throw InputError(who + std::to_string(vocabulary) + " token counts, not " +
                       std::to_string(place.token_counts->size()));
    std::vector<double> table = balanced_hash_table(*place.token_counts, place.experts);
    for (double& e : table) e = (2 * e + 1) / place.experts - 1;
    initializer = Initializer::given(std::move(table));
  }
  return store.add({place.name + ".table", {vocabulary}, initializer, false, false, true,
                    {"vocabulary"}});
}

}  // namespace

std::vector<double> balanced_hash_table(const std::vector<std::int64_t>& token_counts,
                                        int experts) {
  std::vector<std::size_t> order(token_counts.size());
  std::iota(order.begin(), order.end(), std::size_t(0));
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return token_counts[a] > token_counts[b];
  });
  std::set<std::tuple<std::int64_t, std::int64_t, int>> experts_by_load;
  for (int e = 0; e < experts; ++e) experts_by_load.insert({0, 0, e});
  std::vector<double> table(token_counts.size());
  for (const std::size_t id : order) {
    auto [load, ids, e] = *experts_by_load.begin();
    experts_by_load.erase(experts_by_load.begin());
    experts_by_load.insert({load + token_counts[id], ids + 1, e});
    table[id] = e;
  }
  return table;
}

template <class T>
RouterInfo HashRouter<T>::info() {
  RouterInfo info{"hash", "one expert by token id, nothing to learn",
                  "Roller et al. 2021, arXiv 2106.04426",
                  {{"table", std::string("modulo"),
                    "which expert a token id has: id modulo E, drawn once, or balanced by how often "
                    "each token occurs in the training text",
                    0, 0, {"modulo", "random", "balanced"}}}};
  info.balance_loss = false;
  info.logits = false;
  info.takes_capacity = true;
  info.defaults.balance = 0;
  return info;
}

template <class T>
HashRouter<T>::HashRouter(const RouterPlace& place, const RouterOptions& options,
                          ParameterStore<T>& store)
    : Router<T>(place, store, 0), table_(add_table(place, options.text("table"), store)) {}

template <class T>
Matrix<T> HashRouter<T>::project(const StepContext& ctx, const Matrix<const T>& x) const {
  return ctx.saved->template matrix<T>(x.extent(0), 0);
}

template <class T>
Routing<T> HashRouter<T>::route_logits(const StepContext& ctx, const Matrix<const T>& z,
                                       const Routing<T>* replay) const {
  const int tokens = static_cast<int>(z.extent(0)), experts = this->place_.experts;
  if (ctx.tokens.ids.extent(0) != z.extent(0))
    throw InputError("router \"hash\" chooses by token id, and the step has no token ids");
  if (replay != nullptr && replay->slots() != tokens)
    fail("HashRouter", "the routing to replay is of another router");
  Routing<T> routing = make_token_choice<T>(ctx.space, *ctx.saved, tokens, experts, 1);
  const Vector<int> expert = routing.expert;
  const Vector<T> weight = routing.weight;
  const Vector<const int> ids = ctx.tokens.ids;
  const Vector<const int> replayed = replay != nullptr ? replay->expert : Vector<int>();
  const Vector<const T> table =
      table_.valid() ? this->store_->value_vector(table_) : Vector<T>();
  Kokkos::parallel_for(
      KOKOMOE_LABEL("moe::router::hash"),
      Kokkos::RangePolicy<ExecutionSpace>(ctx.space, 0, tokens), KOKKOS_LAMBDA(const int t) {
        int e = ids(t) % experts;
        if (table.extent(0) != 0) {
          e = static_cast<int>((table(ids(t)) + T(1)) * T(0.5) * T(experts));
          e = e < experts ? e : experts - 1;
        }
        expert(t) = replayed.extent(0) != 0 ? replayed(t) : e;
        weight(t) = T(1);
      });
  return routing;
}

template class HashRouter<float>;
template class HashRouter<double>;

}  // namespace kokomoe
