// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "kokomoe/config.hpp"

#ifdef KOKOMOE_HAVE_MPI

#include "kokomoe/core/error.hpp"
#include "kokomoe/parallel/mpi.hpp"
#include "parallel/implementation.hpp"

#include <algorithm>
#include <climits>

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

struct MpiImplementation final : Communicator::Implementation {
  explicit MpiImplementation(MPI_Comm parent) {
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
