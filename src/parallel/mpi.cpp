// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/config.hpp"

#ifdef KOKOMOE_HAVE_MPI

#include "kokomoe/core/error.hpp"
#include "kokomoe/parallel/mpi.hpp"
#include "parallel/implementation.hpp"

#include <algorithm>
#include <climits>
#include <cstring>
#include <map>
#include <utility>
#include <vector>

namespace kokomoe {

namespace {

void check(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(code, text, &length);
  fail(call, std::string(text, static_cast<std::size_t>(length)));
}

/// MPI counts are int: calls `part(first, count)` for pieces that fit.
template <class Part>
void in_parts(std::size_t count, const Part& part) {
  // Every rank cuts alike, and a multiple of a page keeps the pieces aligned.
  constexpr std::size_t largest = (static_cast<std::size_t>(INT_MAX) / 4096) * 4096;
  for (std::size_t first = 0; first < count; first += largest)
    part(first, static_cast<int>(std::min(largest, count - first)));
}

/// A type of `bytes` bytes, kept for the life of the process: there are few sizes of rows.
MPI_Datatype item_type(std::size_t bytes) {
  static std::map<std::size_t, MPI_Datatype> types;
  const auto found = types.find(bytes);
  if (found != types.end()) return found->second;
  if (bytes > static_cast<std::size_t>(INT_MAX))
    fail("AllToAll", "items of " + std::to_string(bytes) + " bytes");
  MPI_Datatype type = MPI_DATATYPE_NULL;
  check(MPI_Type_contiguous(static_cast<int>(bytes), MPI_BYTE, &type), "MPI_Type_contiguous");
  check(MPI_Type_commit(&type), "MPI_Type_commit");
  return types[bytes] = type;
}

struct MpiAllToAll final : AllToAll::State {
  explicit MpiAllToAll(MPI_Comm group) : comm(group) {}
  ~MpiAllToAll() override {
    int finalized = 0;
    MPI_Finalized(&finalized);
    // An error may have left one under way; its buffers are about to go.
    if (!finalized && !requests.empty())
      MPI_Waitall(static_cast<int>(requests.size()), requests.data(), MPI_STATUSES_IGNORE);
  }
  MpiAllToAll(const MpiAllToAll&) = delete;
  MpiAllToAll& operator=(const MpiAllToAll&) = delete;

  void begin(const AllToAll::Part& send, const AllToAll::Part& receive, std::size_t item_bytes,
             std::size_t items_at_once, int rounds, bool wait) override {
    if (!requests.empty()) fail("AllToAll::begin", "the exchange before has not been finished");
    const MPI_Datatype type = item_type(item_bytes);
    for (int round = 0; round < rounds; ++round) {
      const std::size_t first = items_at_once * static_cast<std::size_t>(round);
      if (wait)
        exchange(cut(send, first, items_at_once, send_numbers), send.data,
                 cut(receive, first, items_at_once, receive_numbers), receive.data, type);
      else
        post(cut(send, first, items_at_once, send_numbers), static_cast<char*>(send.data),
             cut(receive, first, items_at_once, receive_numbers),
             static_cast<char*>(receive.data), item_bytes, type);
    }
  }

  /// Counts and offsets of the items [first, first + size) of each part.
  struct Numbers {
    std::vector<int> counts, offsets;
  };
  static const Numbers& cut(const AllToAll::Part& part, std::size_t first, std::size_t size,
                            Numbers& numbers) {
    numbers.counts.resize(part.counts.size());
    numbers.offsets.resize(part.counts.size());
    for (std::size_t q = 0; q < part.counts.size(); ++q) {
      const auto count = static_cast<std::size_t>(part.counts[q]);
      numbers.counts[q] = count > first ? static_cast<int>(std::min(size, count - first)) : 0;
      numbers.offsets[q] =
          numbers.counts[q] > 0 ? part.offsets[q] + static_cast<int>(first) : 0;
    }
    return numbers;
  }
  void exchange(const Numbers& out, const void* from, const Numbers& in, void* to,
                MPI_Datatype type) {
    check(MPI_Alltoallv(from, out.counts.data(), out.offsets.data(), type, to, in.counts.data(),
                        in.offsets.data(), type, comm),
          "MPI_Alltoallv");
  }
  /// Message by message, since MPI_Ialltoallv makes no promise to be as fast, and this rank's own
  /// items need no message. Messages of a pair of ranks with one tag keep their order.
  void post(const Numbers& out, char* from, const Numbers& in, char* to, std::size_t item_bytes,
            MPI_Datatype type) {
    const int ranks = static_cast<int>(out.counts.size());
    int rank = 0;
    MPI_Comm_rank(comm, &rank);
    const auto at = [&](char* data, int offset) {
      return data + static_cast<std::size_t>(offset) * item_bytes;
    };
    // Device memory is MPI's business, this rank's own items too.
    const int nearest = host_accessible ? 1 : 0;
    for (int step = nearest; step < ranks; ++step) {
      const auto p = static_cast<std::size_t>((rank + ranks - step) % ranks);
      if (in.counts[p] > 0)
        check(MPI_Irecv(at(to, in.offsets[p]), in.counts[p], type, static_cast<int>(p), tag, comm,
                        &requests.emplace_back()),
              "MPI_Irecv");
    }
    for (int step = nearest; step < ranks; ++step) {
      const auto q = static_cast<std::size_t>((rank + step) % ranks);
      if (out.counts[q] > 0)
        check(MPI_Isend(at(from, out.offsets[q]), out.counts[q], type, static_cast<int>(q), tag,
                        comm, &requests.emplace_back()),
              "MPI_Isend");
    }
    const auto own = static_cast<std::size_t>(rank);
    if (host_accessible && out.counts[own] > 0)
      std::memcpy(at(to, in.offsets[own]), at(from, out.offsets[own]),
                  static_cast<std::size_t>(out.counts[own]) * item_bytes);
  }
  bool test() override {
    int done = 1;
    if (!requests.empty())
      check(MPI_Testall(static_cast<int>(requests.size()), requests.data(), &done,
                        MPI_STATUSES_IGNORE),
            "MPI_Testall");
    return done != 0;
  }
  void finish() override {
    if (!requests.empty())
      check(MPI_Waitall(static_cast<int>(requests.size()), requests.data(), MPI_STATUSES_IGNORE),
            "MPI_Waitall");
    requests.clear();
  }

  /// Of exchanges; Communicator::send uses another.
  static constexpr int tag = 1;

  MPI_Comm comm;
  std::vector<MPI_Request> requests;
  Numbers send_numbers, receive_numbers;
};

struct MpiImplementation final : Communicator::Implementation {
  explicit MpiImplementation(MPI_Comm parent, bool owned = false) {
    if (owned)
      comm = parent;
    else
      check(MPI_Comm_dup(parent, &comm), "MPI_Comm_dup");
    // Errors become exceptions that name the call, instead of an abort.
    check(MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
    check(MPI_Comm_rank(comm, &rank_), "MPI_Comm_rank");
    check(MPI_Comm_size(comm, &size_), "MPI_Comm_size");
  }
  ~MpiImplementation() override {
    int finalized = 0;
    MPI_Finalized(&finalized);
    if (!finalized) MPI_Comm_free(&comm);
  }
  MpiImplementation(const MpiImplementation&) = delete;
  MpiImplementation& operator=(const MpiImplementation&) = delete;

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  void sum(float* data, std::size_t count) const override { reduce(data, count, MPI_FLOAT); }
  void sum(double* data, std::size_t count) const override { reduce(data, count, MPI_DOUBLE); }
  void sum(std::int32_t* data, std::size_t count) const override {
    reduce(data, count, MPI_INT32_T);
  }
  void sum(std::int64_t* data, std::size_t count) const override {
    reduce(data, count, MPI_INT64_T);
  }
  std::int64_t max(std::int64_t value) const override {
    std::int64_t result = value;
    check(MPI_Allreduce(&value, &result, 1, MPI_INT64_T, MPI_MAX, comm), "MPI_Allreduce");
    return result;
  }
  void broadcast(void* data, std::size_t bytes) const override {
    in_parts(bytes, [&](std::size_t first, int count) {
      check(MPI_Bcast(static_cast<char*>(data) + first, count, MPI_BYTE, 0, comm), "MPI_Bcast");
    });
  }
  void barrier() const override { check(MPI_Barrier(comm), "MPI_Barrier"); }
  void all_gather(const void* own, std::size_t bytes, void* all) const override {
    const MPI_Datatype type = item_type(std::max<std::size_t>(1, bytes));
    const int count = bytes > 0 ? 1 : 0;
    check(MPI_Allgather(own, count, type, all, count, type, comm), "MPI_Allgather");
  }
  void send(const void* data, std::size_t bytes, int to) const override {
    in_parts(bytes, [&](std::size_t first, int count) {
      check(MPI_Send(static_cast<const char*>(data) + first, count, MPI_BYTE, to, 0, comm),
            "MPI_Send");
    });
  }
  void receive(void* data, std::size_t bytes, int from) const override {
    in_parts(bytes, [&](std::size_t first, int count) {
      check(MPI_Recv(static_cast<char*>(data) + first, count, MPI_BYTE, from, 0, comm,
                     MPI_STATUS_IGNORE),
            "MPI_Recv");
    });
  }
  std::shared_ptr<const Implementation> split(int color, int key) const override {
    MPI_Comm part = MPI_COMM_NULL;
    check(MPI_Comm_split(comm, color, key, &part), "MPI_Comm_split");
    return std::make_shared<const MpiImplementation>(part, true);
  }
  std::shared_ptr<const Implementation> split_by_node() const override {
    MPI_Comm part = MPI_COMM_NULL;
    check(MPI_Comm_split_type(comm, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &part),
          "MPI_Comm_split_type");
    return std::make_shared<const MpiImplementation>(part, true);
  }
  std::unique_ptr<AllToAll::State> make_all_to_all() const override {
    return std::make_unique<MpiAllToAll>(comm);
  }

  template <class T>
  void reduce(T* data, std::size_t count, MPI_Datatype type) const {
    in_parts(count, [&](std::size_t first, int part) {
      check(MPI_Allreduce(MPI_IN_PLACE, data + first, part, type, MPI_SUM, comm), "MPI_Allreduce");
    });
  }

  MPI_Comm comm = MPI_COMM_NULL;
  int rank_ = 0;
  int size_ = 1;
};

}  // namespace

Communicator make_communicator(MPI_Comm comm) {
  return Communicator(std::make_shared<const MpiImplementation>(comm));
}

MPI_Comm mpi_comm(const Communicator& communicator) {
  const auto* implementation = communicator.implementation();
  if (implementation == nullptr) return MPI_COMM_NULL;
  return static_cast<const MpiImplementation*>(implementation)->comm;
}

}  // namespace kokomoe

#endif
