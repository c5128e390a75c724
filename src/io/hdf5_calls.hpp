// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "io/hdf5_handles.hpp"
#include "io/tensor_pieces.hpp"
#include "kokomoe/core/error.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <string>

/// Calls of HDF5 that writing and reading share. `path` and `what` stand in messages.
namespace kokomoe::detail {

[[noreturn]] inline void fail_write(const std::string& path, const std::string& what) {
  fail(path, "cannot write " + what + ": " + h5_reason());
}

inline hid_t checked(hid_t id, const std::string& path, const std::string& what) {
  if (id < 0) fail_write(path, what);
  return id;
}

inline void check(herr_t code, const std::string& path, const std::string& what) {
  if (code < 0) fail_write(path, what);
}

/// H5Fclose for a file that was written. When the last writes fail, as on a full disk, H5Fclose
/// leaves a file half gone, which HDF5 trips over when the process ends, long after a run has
/// decided to go on. So what could not be written then goes to memory, and the file is closed.
inline herr_t close_written(hid_t file) {
  if (H5Fflush(file, H5F_SCOPE_GLOBAL) >= 0) return H5Fclose(file);
#ifdef MFD_CLOEXEC
  const H5Handle access(H5Fget_access_plist(file), H5Pclose);
  void* handle = nullptr;
  if (access.valid() && H5Pget_driver(access.get()) == H5FD_SEC2 &&
      H5Fget_vfd_handle(file, access.get(), &handle) >= 0 && handle != nullptr) {
    const int memory = ::memfd_create("kokomoe state.h5", MFD_CLOEXEC);
    if (memory >= 0) {
      ::dup2(memory, *static_cast<int*>(handle));
      ::close(memory);
    }
  }
#endif
  H5Fclose(file);
  return -1;
}

/// File types are little-endian whatever the machine.
inline hid_t file_type(const std::string& dtype) {
  if (dtype == "float32") return H5T_IEEE_F32LE;
  if (dtype == "float64") return H5T_IEEE_F64LE;
  return H5T_STD_U64LE;
}

inline hid_t memory_type(const std::string& dtype) {
  if (dtype == "float32") return H5T_NATIVE_FLOAT;
  if (dtype == "float64") return H5T_NATIVE_DOUBLE;
  return H5T_NATIVE_UINT64;
}

/// Selects a piece in a dataset's space; negative when that fails.
inline herr_t select_piece(hid_t space, const Piece& piece) {
  hsize_t start[H5S_MAX_RANK] = {}, count[H5S_MAX_RANK] = {};
  const int rank = H5Sget_simple_extent_dims(space, count, nullptr);
  if (rank < 1) return -1;
  start[0] = piece.row;
  count[0] = piece.rows;
  if (rank > 1) {
    start[1] = piece.column;
    count[1] = piece.columns;
  }
  return H5Sselect_hyperslab(space, H5S_SELECT_SET, start, nullptr, count, nullptr);
}

}  // namespace kokomoe::detail
