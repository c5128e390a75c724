// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "train/non_finite.hpp"

#include <cmath>
#include <cstdint>

namespace kokomoe::detail {

namespace {

template <class T>
std::int64_t count_non_finite(const ExecutionSpace& space, const Vector<const T>& values) {
  std::int64_t bad = 0;
  Kokkos::parallel_reduce(
      KOKOMOE_LABEL("train::find_non_finite"),
      Kokkos::RangePolicy<ExecutionSpace>(space, 0, values.extent(0)),
      KOKKOS_LAMBDA(const std::size_t j, std::int64_t& count) {
        if (!Kokkos::isfinite(values(j))) ++count;
      },
      bad);
  return bad;
}

/// `"blocks.2.moe.experts.w1" of layer 2`.
std::string tensor_and_layer(const std::string& name) {
  const std::string prefix = "blocks.";
  std::string text = "\"" + name + "\"";
  const std::size_t first = prefix.size();
  if (name.starts_with(prefix))
    text += " of layer " + name.substr(first, name.find('.', first) - first);
  return text;
}

/// Of parameters, or of their gradients: the tensor of the least index (or the greatest) that holds
/// numbers that are not finite on any rank, and how many over all; "" when there is none.
template <class T>
std::string find_tensor(const ExecutionSpace& space, const ExpertLayout& layout,
                        const ParameterStore<T>& store, bool gradients, bool last) {
  const auto& entries = store.entries();
  const auto size = static_cast<std::int64_t>(entries.size());
  const auto count = [&](std::int64_t i) -> std::int64_t {
    const auto& entry = entries[static_cast<std::size_t>(i)];
    if (entry.size == 0 || (gradients && (entry.spec.state || entry.frozen))) return 0;
    const ParameterHandle handle{static_cast<int>(i)};
    return count_non_finite<T>(
        space, gradients ? store.gradient_vector(handle) : store.value_vector(handle));
  };
  // The index, or its distance from the end, plus one: the largest over ranks is agreed upon.
  std::int64_t found = 0;
  for (std::int64_t i = 0; i < size && found == 0; ++i) {
    const std::int64_t index = last ? size - 1 - i : i;
    if (count(index) > 0) found = size - i;
  }
  found = layout.world.all_reduce_max(found);
  if (found == 0) return "";
  const std::int64_t index = last ? found - 1 : size - found;
  const auto& entry = entries[static_cast<std::size_t>(index)];
  std::int64_t bad = count(index), all = 1;
  if (entry.spec.expert) layout.experts.all_reduce_sum(&bad, 1);
  bad = layout.world.all_reduce_max(bad);
  for (const std::size_t extent : entry.spec.shape) all *= static_cast<std::int64_t>(extent);
  return tensor_and_layer(entry.spec.name) + " (" + std::to_string(bad) + " of " +
         std::to_string(all) + ")";
}

}  // namespace

template <class T>
std::string describe_non_finite(const ExecutionSpace& space, const ExpertLayout& layout,
                                const ParameterStore<T>& store, const UpdateReport& report,
                                const std::vector<int>& moe_layers) {
  std::string text =
      "loss " + std::to_string(report.loss) + ", gradient norm " + std::to_string(report.grad_norm);
  const std::string value = find_tensor<T>(space, layout, store, false, false);
  if (!value.empty()) return text + "; first parameter that is not finite: " + value;
  // A loss that is not finite spoils every gradient: what tells is how far forward came.
  if (!std::isfinite(report.loss))
    for (std::size_t l = 0; l < report.load.size(); ++l)
      if (!std::isfinite(report.load[l].balance)) {
        text += "; first layer with router probabilities that are not finite: layer " +
                std::to_string(moe_layers[l]);
        break;
      }
  // A loss that is finite spoils, on its way back, what lies before the place where it went wrong.
  const bool backward = std::isfinite(report.loss);
  const std::string gradient = find_tensor<T>(space, layout, store, true, backward);
  if (!gradient.empty())
    text += std::string("; ") + (backward ? "last" : "first") +
            " gradient that is not finite: " + gradient;
  return text;
}

template std::string describe_non_finite<float>(const ExecutionSpace&, const ExpertLayout&,
                                                const ParameterStore<float>&, const UpdateReport&,
                                                const std::vector<int>&);
template std::string describe_non_finite<double>(const ExecutionSpace&, const ExpertLayout&,
                                                 const ParameterStore<double>&, const UpdateReport&,
                                                 const std::vector<int>&);

}  // namespace kokomoe::detail
