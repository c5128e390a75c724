// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/moe/routers/uniform_path.hpp"

namespace kokomoe {

namespace {

constexpr detail::SampledGateRule rule{
    .name = "uniform_path",
    .summary = "sampled experts; the router gradient without bias, from a random point of the path",
    .paper = "this library, after arXiv 2310.00811",
    .scale = {0, 0.5, true},
    .grad_factor = 2};

}  // namespace

template <class T>
RouterInfo UniformPathRouter<T>::info() {
  return detail::sampled_gate_info(rule);
}

template <class T>
UniformPathRouter<T>::UniformPathRouter(const RouterPlace& place, const RouterOptions& options,
                                       ParameterStore<T>& store)
    : detail::SampledGateRouter<T>(rule, place, options, store) {}

template class UniformPathRouter<float>;
template class UniformPathRouter<double>;

}  // namespace kokomoe
