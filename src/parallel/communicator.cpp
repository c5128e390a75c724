// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/parallel/communicator.hpp"

#include "kokomoe/core/error.hpp"
#include "kokomoe/parallel/pulse.hpp"
#include "parallel/implementation.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

namespace kokomoe {

Communicator::Communicator() = default;

Communicator::Communicator(std::shared_ptr<const Implementation> implementation)
    : implementation_(std::move(implementation)) {
  if (implementation_) {
    rank_ = implementation_->rank();
    size_ = implementation_->size();
  }
}

template <class T>
void Communicator::all_reduce_sum(T* data, std::size_t count) const {
  if (size_ == 1) return;
  const WaitingForRanks waiting("all_reduce_sum");
  implementation_->sum(data, count);
}

template <class T>
void Communicator::all_reduce_sum(const ExecutionSpace& space, const Vector<T>& data) const {
  if (size_ == 1) return;
  if constexpr (host_accessible) {
    space.fence(KOKOMOE_LABEL("parallel::all_reduce"));
    const WaitingForRanks waiting("all_reduce_sum");
    implementation_->sum(data.data(), data.extent(0));
  } else {
    auto& staging = implementation_->staging;
    staging.resize(std::max(staging.size(), data.extent(0) * sizeof(T)));
    // operator new aligns for every T that is reduced.
    T* host = reinterpret_cast<T*>(staging.data());
    const Kokkos::View<T*, Kokkos::LayoutRight, Kokkos::HostSpace> mirror(host, data.extent(0));
    Kokkos::deep_copy(space, mirror, data);
    space.fence(KOKOMOE_LABEL("parallel::all_reduce"));
    {
      const WaitingForRanks waiting("all_reduce_sum");
      implementation_->sum(host, data.extent(0));
    }
    Kokkos::deep_copy(space, data, mirror);
    // The next call may write into the staging memory.
    space.fence(KOKOMOE_LABEL("parallel::all_reduce"));
  }
}

std::int64_t Communicator::all_reduce_max(std::int64_t value) const {
  if (size_ == 1) return value;
  const WaitingForRanks waiting("all_reduce_max");
  return implementation_->max(value);
}

void Communicator::broadcast(void* data, std::size_t bytes) const {
  if (size_ == 1) return;
  const WaitingForRanks waiting("broadcast");
  implementation_->broadcast(data, bytes);
}

std::string Communicator::broadcast(const std::string& text) const {
  if (size_ == 1) return text;
  std::uint64_t size = text.size();
  broadcast(&size, sizeof size);
  std::string result = is_root() ? text : std::string(size, '\0');
  broadcast(result.data(), result.size());
  return result;
}

void Communicator::all_gather(const void* own, std::size_t bytes, void* all) const {
  if (size_ == 1) {
    if (bytes > 0) std::memcpy(all, own, bytes);
    return;
  }
  const WaitingForRanks waiting("all_gather");
  implementation_->all_gather(own, bytes, all);
}

void Communicator::send(const void* data, std::size_t bytes, int to) const {
  if (size_ == 1 || to == rank_) fail("Communicator::send", "to this rank itself");
  const WaitingForRanks waiting("send");
  implementation_->send(data, bytes, to);
}

void Communicator::receive(void* data, std::size_t bytes, int from) const {
  if (size_ == 1 || from == rank_) fail("Communicator::receive", "from this rank itself");
  const WaitingForRanks waiting("receive");
  implementation_->receive(data, bytes, from);
}

Communicator Communicator::split(int color, int key) const {
  return size_ > 1 ? Communicator(implementation_->split(color, key)) : *this;
}

Communicator Communicator::split_by_node() const {
  return size_ > 1 ? Communicator(implementation_->split_by_node()) : *this;
}

void Communicator::barrier() const {
  if (size_ == 1) return;
  const WaitingForRanks waiting("barrier");
  implementation_->barrier();
}

#define KOKOMOE_INSTANTIATE(T)                                                                   \
  template void Communicator::all_reduce_sum(T*, std::size_t) const;                             \
  template void Communicator::all_reduce_sum(const ExecutionSpace& space, const Vector<T>& data) \
      const;
KOKOMOE_INSTANTIATE(float)
KOKOMOE_INSTANTIATE(double)
KOKOMOE_INSTANTIATE(std::int32_t)
KOKOMOE_INSTANTIATE(std::int64_t)
#undef KOKOMOE_INSTANTIATE

}  // namespace kokomoe
