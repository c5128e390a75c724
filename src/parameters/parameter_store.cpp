// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/parameters/parameter_store.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/core/huge_pages.hpp"
#include "kokomoe/core/philox.hpp"

#include <algorithm>
#include <cmath>
#include <tuple>
#include <utility>

namespace kokomoe {

namespace {

bool matches(const char* pattern, const char* text) {
  if (*pattern == '\0') return *text == '\0';
  if (*pattern == '*')
    return matches(pattern + 1, text) || (*text != '\0' && matches(pattern, text + 1));
  return *pattern == *text && matches(pattern + 1, text + 1);
}

std::size_t product(const std::vector<std::size_t>& shape) {
  std::size_t size = 1;
  for (const std::size_t extent : shape) size *= extent;
  return size;
}

/// Fills local elements [0, size) which are global elements [first, first + size).
template <class T>
void initialise(const ExecutionSpace& space, const Vector<T>& flat, std::size_t first,
                const Initializer& initializer, std::uint64_t seed, std::uint64_t hash) {
  if (initializer.kind == Initializer::Kind::constant) {
    Kokkos::deep_copy(space, flat, static_cast<T>(initializer.scale));
    return;
  }
  if (initializer.kind == Initializer::Kind::given) {
    const auto host = Kokkos::create_mirror_view(flat);
    for (std::size_t i = 0; i < flat.extent(0); ++i)
      host(i) = static_cast<T>((*initializer.values)[first + i]);
    Kokkos::deep_copy(space, flat, host);
    space.fence(KOKOMOE_LABEL("parameters::initialise"));
    return;
  }
  const PhiloxStream key(seed, Purpose::initialization, 0, 0, 0);
  const double scale = initializer.scale;
  const bool normal = initializer.kind == Initializer::Kind::normal;
  const auto low = static_cast<std::uint32_t>(hash), high = static_cast<std::uint32_t>(hash >> 32);
  Kokkos::parallel_for(
      KOKOMOE_LABEL("parameters::initialise"),
      Kokkos::RangePolicy<ExecutionSpace>(space, 0, flat.extent(0)),
      KOKKOS_LAMBDA(const std::size_t i) {
        const std::uint64_t index = first + i;
        const PhiloxBlock r = philox(low, high, static_cast<std::uint32_t>(index),
                                     static_cast<std::uint32_t>(index >> 32), key.key0, key.key1);
        const double u = open_uniform<double>(r.word[0]);
        const double v = open_uniform<double>(r.word[1]);
        // Box-Muller: one normal a block keeps element and counter one to one.
        const double draw = normal ? Kokkos::sqrt(-2.0 * Kokkos::log(u)) *
                                         Kokkos::cos(2.0 * Kokkos::numbers::pi * v)
                                   : 2.0 * u - 1.0;
        flat(i) = static_cast<T>(scale * draw);
      });
}

template <class T>
void round_to_bfloat16(const ExecutionSpace& space, const Vector<const T>& from,
                       const Vector<Bfloat16>& to) {
  Kokkos::parallel_for(
      KOKOMOE_LABEL("parameters::round_values"),
      Kokkos::RangePolicy<ExecutionSpace>(space, 0, from.extent(0)),
      KOKKOS_LAMBDA(const std::size_t i) { to(i).set(static_cast<float>(from(i))); });
}

template <class T>
void round_sums(const ExecutionSpace& space, const exact_sum::Sums& sums, const Vector<T>& out) {
  const std::int64_t* const high = sums.high.data();
  const std::int64_t* const low = sums.low.data();
  const Vector<const std::int64_t> outside = sums.outside;
  Kokkos::parallel_for(
      KOKOMOE_LABEL("parameters::round"),
      Kokkos::RangePolicy<ExecutionSpace>(space, 0, out.extent(0)),
      KOKKOS_LAMBDA(const std::size_t i) {
        out(i) = outside(0) == 0 ? static_cast<T>(exact_sum::value(high[i], low[i]))
                                 : Kokkos::Experimental::quiet_NaN_v<T>;
      });
}

}  // namespace

template <class T>
ParameterStore<T>::ParameterStore(int expert_rank, int expert_ranks)
    : expert_rank_(expert_rank), expert_ranks_(expert_ranks) {
  if (expert_ranks < 1 || expert_rank < 0 || expert_rank >= expert_ranks)
    fail("ParameterStore", "rank " + std::to_string(expert_rank) + " of " +
                               std::to_string(expert_ranks) + " expert ranks");
}

template <class T>
ParameterHandle ParameterStore<T>::add(ParameterSpec spec) {
  if (allocated_) fail("ParameterStore", "\"" + spec.name + "\" added after allocate");
  if (spec.shape.empty()) fail("ParameterStore", "\"" + spec.name + "\" has no shape");
  if (find(spec.name).valid()) fail("ParameterStore", "\"" + spec.name + "\" is there already");
  if (spec.initializer.kind == Initializer::Kind::given &&
      (spec.initializer.values == nullptr ||
       spec.initializer.values->size() != product(spec.shape)))
    fail("ParameterStore", "\"" + spec.name + "\" is not given as many values as it has elements");
  Entry entry;
  entry.group = spec.state ? Group::state : spec.expert ? Group::expert : Group::replicated;
  entry.local_shape = spec.shape;
  if (entry.group == Group::expert)
    entry.local_shape[0] =
        static_cast<std::size_t>(experts(static_cast<int>(spec.shape[0])).size());
  entry.size = product(entry.local_shape);
  entry.spec = std::move(spec);
  entries_.push_back(std::move(entry));
  return {static_cast<int>(entries_.size()) - 1};
}

template <class T>
auto ParameterStore<T>::matching(const std::string& pattern, const char* caller)
    -> std::vector<Entry*> {
  if (allocated_)
    fail("ParameterStore", std::string(caller) + "(\"" + pattern + "\") after allocate");
  std::vector<Entry*> found;
  for (Entry& entry : entries_)
    if (entry.group != Group::state && matches(pattern.c_str(), entry.spec.name.c_str()))
      found.push_back(&entry);
  return found;
}

template <class T>
int ParameterStore<T>::freeze(const std::string& pattern) {
  const std::vector<Entry*> found = matching(pattern, "freeze");
  for (Entry* entry : found) entry->frozen = true;
  return static_cast<int>(found.size());
}

template <class T>
int ParameterStore<T>::scale_rate(const std::string& pattern, double factor) {
  const std::vector<Entry*> found = matching(pattern, "scale_rate");
  if (!(factor > 0 && std::isfinite(factor)))
    fail("ParameterStore", "scale_rate(\"" + pattern + "\") by " + std::to_string(factor));
  for (Entry* entry : found) entry->rate *= factor;
  return static_cast<int>(found.size());
}

template <class T>
void ParameterStore<T>::sum_exactly() {
  if (allocated_) fail("ParameterStore", "sum_exactly after allocate");
  exact_ = true;
}

/// Gives each entry its offset, each buffer its ranges.
template <class T>
void ParameterStore<T>::lay_out() {
  std::vector<Entry*> order;
  for (Entry& entry : entries_) order.push_back(&entry);
  // As they are used: trained with decay, trained without, frozen; the fastest first.
  const auto before = [](const Entry* entry) {
    return std::tuple(entry->frozen, !entry->spec.decay, entry->frozen ? 0 : -entry->rate);
  };
  std::stable_sort(order.begin(), order.end(),
                   [&](const Entry* a, const Entry* b) { return before(a) < before(b); });
  std::size_t sizes[3] = {0, 0, 0};
  for (Entry* entry : order) {
    Buffer& buffer = buffers_[static_cast<int>(entry->group)];
    std::size_t& size = sizes[static_cast<int>(entry->group)];
    entry->offset = size;
    size += entry->size;
    if (entry->frozen || entry->group == Group::state) continue;
    buffer.trained = size;
    std::vector<Range>& ranges = buffer.ranges;
    if (ranges.empty() || ranges.back().decay != entry->spec.decay ||
        ranges.back().rate != entry->rate)
      ranges.push_back({entry->offset, size, entry->spec.decay, entry->rate});
    ranges.back().end = size;
  }
}

template <class T>
void ParameterStore<T>::allocate(const ExecutionSpace& space, std::uint64_t seed) {
  if (allocated_) fail("ParameterStore", "allocate called twice");
  allocated_ = true;
  lay_out();
  std::size_t sizes[3] = {0, 0, 0};
  for (const Entry& entry : entries_) sizes[static_cast<int>(entry.group)] += entry.size;
  const char* names[3] = {"replicated", "expert", "state"};
  for (int g = 0; g < 3; ++g) {
    Buffer& b = buffers_[g];
    const auto make = [&](const char* what, std::size_t size) {
      return zeros_on_huge_pages<T>(std::string("kokomoe::parameters::") + names[g] + "::" + what,
                                    size);
    };
    b.value = make("value", sizes[g]);
    if (static_cast<Group>(g) == Group::state) continue;
    b.gradient = make("gradient", sizes[g]);
    b.moment1 = make("moment1", b.trained);
    b.moment2 = make("moment2", b.trained);
    if (!exact_) continue;
    const std::string name = std::string("kokomoe::parameters::") + names[g];
    b.high = Vector<std::int64_t>(name + "::high", sizes[g]);
    b.low = Vector<std::int64_t>(name + "::low", sizes[g]);
  }
  if (exact_) outside_ = Vector<std::int64_t>("kokomoe::parameters::outside", entries_.size());
  std::size_t rounded[3] = {0, 0, 0};
  for (Entry& entry : entries_) {
    if (!entry.spec.rounded) continue;
    std::size_t& size = rounded[static_cast<int>(entry.group)];
    entry.rounded_offset = size;
    size += entry.size;
  }
  for (int g = 0; g < 3; ++g)
    if (rounded[g] > 0)
      buffers_[g].rounded = zeros_on_huge_pages<Bfloat16>(
          std::string("kokomoe::parameters::") + names[g] + "::rounded", rounded[g]);
  for (const Entry& entry : entries_) {
    std::size_t first = 0;
    if (entry.group == Group::expert)
      first = entry.size / std::max<std::size_t>(1, entry.local_shape[0]) *
              static_cast<std::size_t>(experts(static_cast<int>(entry.spec.shape[0])).begin);
    const Vector<T> flat(buffer(entry.group).value.data() + entry.offset, entry.size);
    initialise(space, flat, first, entry.spec.initializer, seed,
               name_hash(entry.spec.name.c_str()));
  }
  round_values(space);
  space.fence(KOKOMOE_LABEL("parameters::allocate"));
}

template <class T>
Matrix<T> ParameterStore<T>::as_matrix(const Vector<T>& flat, const Entry& entry) const {
  const std::size_t columns = entry.local_shape.back();
  const std::size_t rows = columns == 0 ? 0 : entry.size / columns;
  return Matrix<T>(flat.data() + entry.offset, rows, columns);
}

template <class T>
Matrix<T> ParameterStore<T>::as_expert(const Vector<T>& flat, const Entry& entry,
                                       int local_expert) const {
  const std::size_t size = entry.size / entry.local_shape[0];
  const std::size_t columns = entry.local_shape.back();
  return Matrix<T>(flat.data() + entry.offset + size * static_cast<std::size_t>(local_expert),
                   size / columns, columns);
}

template <class T>
void ParameterStore<T>::require_usable(ParameterHandle handle) const {
  if (!allocated_) fail("ParameterStore", "used before allocate");
  if (handle.index < 0 || handle.index >= static_cast<int>(entries_.size()))
    fail("ParameterStore", "a handle that no add gave");
}

template <class T>
Matrix<T> ParameterStore<T>::value(ParameterHandle handle) const {
  require_usable(handle);
  const Entry& e = entry(handle);
  return as_matrix(buffer(e.group).value, e);
}

template <class T>
Matrix<T> ParameterStore<T>::expert_value(ParameterHandle handle, int local_expert) const {
  require_usable(handle);
  const Entry& e = entry(handle);
  return as_expert(buffer(e.group).value, e, local_expert);
}

template <class T>
Vector<T> ParameterStore<T>::value_vector(ParameterHandle handle) const {
  require_usable(handle);
  const Entry& e = entry(handle);
  return Vector<T>(buffer(e.group).value.data() + e.offset, e.size);
}

template <class T>
Matrix<const Bfloat16> ParameterStore<T>::rounded_value(ParameterHandle handle) const {
  require_usable(handle);
  const Entry& e = entry(handle);
  if (!e.spec.rounded) fail("ParameterStore", "\"" + e.spec.name + "\" has no copy in bfloat16");
  const std::size_t columns = e.local_shape.back(), rows = columns == 0 ? 0 : e.size / columns;
  return {buffer(e.group).rounded.data() + e.rounded_offset, rows, columns};
}

template <class T>
void ParameterStore<T>::round_values(const ExecutionSpace& space) {
  for (const Entry& e : entries_)
    if (e.spec.rounded)
      round_to_bfloat16<T>(
          space, Vector<const T>(buffer(e.group).value.data() + e.offset, e.size),
          Vector<Bfloat16>(buffer(e.group).rounded.data() + e.rounded_offset, e.size));
}

template <class T>
Matrix<T> ParameterStore<T>::gradient(ParameterHandle handle) const {
  require_usable(handle);
  const Entry& e = entry(handle);
  return as_matrix(buffer(e.group).gradient, e);
}

template <class T>
Matrix<T> ParameterStore<T>::expert_gradient(ParameterHandle handle, int local_expert) const {
  require_usable(handle);
  const Entry& e = entry(handle);
  return as_expert(buffer(e.group).gradient, e, local_expert);
}

template <class T>
Vector<T> ParameterStore<T>::gradient_vector(ParameterHandle handle) const {
  require_usable(handle);
  const Entry& e = entry(handle);
  return Vector<T>(buffer(e.group).gradient.data() + e.offset, e.size);
}

template <class T>
T ParameterStore<T>::gradient_beta(ParameterHandle handle) {
  if (exact_)
    fail("ParameterStore",
         "\"" + entry(handle).spec.name + "\" belongs to a layer that does not sum exactly");
  return std::exchange(entries_[static_cast<std::size_t>(handle.index)].gradient_written, true)
             ? T(1)
             : T(0);
}

template <class T>
bool ParameterStore<T>::adds_exactly(ParameterHandle handle) {
  require_usable(handle);
  return std::exchange(entries_[static_cast<std::size_t>(handle.index)].gradient_written, true);
}

template <class T>
exact_sum::Sums ParameterStore<T>::exact_gradient(ParameterHandle handle) const {
  require_usable(handle);
  if (!exact_) fail("ParameterStore", "has no exact sums: sum_exactly was not called");
  const Entry& e = entry(handle);
  const Buffer& b = buffer(e.group);
  const std::size_t columns = e.local_shape.back(), rows = columns == 0 ? 0 : e.size / columns;
  return {Matrix<std::int64_t>(b.high.data() + e.offset, rows, columns),
          Matrix<std::int64_t>(b.low.data() + e.offset, rows, columns),
          Vector<std::int64_t>(outside_.data() + handle.index, 1)};
}

template <class T>
void ParameterStore<T>::begin_update() {
  for (Entry& entry : entries_) entry.gradient_written = false;
}

template <class T>
void ParameterStore<T>::finish_gradients(const ExecutionSpace& space) {
  for (int i = 0; i < static_cast<int>(entries_.size()); ++i) {
    Entry& entry = entries_[static_cast<std::size_t>(i)];
    if (entry.gradient_written || entry.group == Group::state) continue;
    Kokkos::deep_copy(space, gradient_vector({i}), T(0));
    if (exact_) {
      Kokkos::deep_copy(space, exact_gradient({i}).high, 0);
      Kokkos::deep_copy(space, exact_gradient({i}).low, 0);
    }
    entry.gradient_written = true;
  }
}

template <class T>
void ParameterStore<T>::round_gradients(const ExecutionSpace& space) {
  for (int i = 0; i < static_cast<int>(entries_.size()); ++i)
    if (entries_[static_cast<std::size_t>(i)].group != Group::state)
      round_sums<T>(space, exact_gradient({i}), gradient_vector({i}));
  Kokkos::deep_copy(space, outside_, 0);
}

template <class T>
ParameterHandle ParameterStore<T>::find(const std::string& name) const {
  for (std::size_t i = 0; i < entries_.size(); ++i)
    if (entries_[i].spec.name == name) return {static_cast<int>(i)};
  return {};
}

template <class T>
std::size_t ParameterStore<T>::parameters() const {
  std::size_t sum = 0;
  for (const Entry& entry : entries_)
    if (entry.group != Group::state) sum += product(entry.spec.shape);
  return sum;
}

template <class T>
std::size_t ParameterStore<T>::bytes() const {
  std::size_t sum = 0;
  for (const Buffer& b : buffers_)
    sum += b.value.size() + b.gradient.size() + b.moment1.size() + b.moment2.size();
  std::size_t limbs = outside_.size();
  for (const Buffer& b : buffers_) limbs += b.high.size() + b.low.size();
  std::size_t rounded = 0;
  for (const Buffer& b : buffers_) rounded += b.rounded.size();
  return sum * sizeof(T) + limbs * sizeof(std::int64_t) + rounded * sizeof(Bfloat16);
}

template class ParameterStore<float>;
template class ParameterStore<double>;

}  // namespace kokomoe
