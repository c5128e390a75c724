// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "io/hdf5_handles.hpp"
#include "io/tensor_pieces.hpp"
#include "kokomoe/core/error.hpp"

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
