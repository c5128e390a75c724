// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/moe/routers/euler.hpp"

namespace kokomoe {

namespace {

constexpr detail::SampledGateRule rule{
    .name = "euler",
    .summary = "sampled experts; the router gradient by Euler's rule",
    .paper = "Liu, Gao, Chen 2023, arXiv 2310.00811",
    .scale = {},
    .grad_factor = 2};

}  // namespace

template <class T>
RouterInfo EulerRouter<T>::info() {
  return detail::sampled_gate_info(rule);
}

template <class T>
EulerRouter<T>::EulerRouter(const RouterPlace& place, const RouterOptions& options,
                           ParameterStore<T>& store)
    : detail::SampledGateRouter<T>(rule, place, options, store) {}

template class EulerRouter<float>;
template class EulerRouter<double>;

}  // namespace kokomoe
