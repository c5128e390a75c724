// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "io/state_file.hpp"
#include "kokomoe/config.hpp"

#ifdef KOKOMOE_HAVE_HDF5

#include "io/disk.hpp"
#include "io/hdf5_calls.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#if defined(KOKOMOE_HAVE_MPI) && defined(H5_HAVE_PARALLEL)
#define KOKOMOE_PARALLEL_HDF5
#include "kokomoe/parallel/mpi.hpp"
#endif

namespace kokomoe::detail {

struct StateData::Impl {
  std::string path, name;
  const Communicator* ranks = nullptr;  ///< null for one process
  H5Silence silence;
  H5Handle access, file, dataset, collective;

  explicit Impl(const std::string& file_path) : path(file_path) {
    access = H5Handle(checked(H5Pcreate(H5P_FILE_ACCESS), path, "file"), H5Pclose);
    // Writes fail when they are made. HDF5 would keep small ones until H5Dclose, and a dataset
    // whose H5Dclose failed is freed and yet closed again when the process ends.
    check(H5Pset_sieve_buf_size(access.get(), 0), path, "file");
  }

  void write(const Piece* piece, const void* data, hid_t transfer) {
    const H5Handle space(checked(H5Dget_space(dataset.get()), path, name), H5Sclose);
    const hsize_t elements = piece == nullptr ? 0 : piece->elements;
    const H5Handle memory(checked(H5Screate_simple(1, &elements, nullptr), path, name), H5Sclose);
    if (piece == nullptr) {
      check(H5Sselect_none(space.get()), path, name);
      check(H5Sselect_none(memory.get()), path, name);
    } else {
      check(select_piece(space.get(), *piece), path, name);
    }
    const H5Handle type(checked(H5Dget_type(dataset.get()), path, name), H5Tclose);
    const H5Handle native(checked(H5Tget_native_type(type.get(), H5T_DIR_ASCEND), path, name),
                          H5Tclose);
    check(H5Dwrite(dataset.get(), native.get(), memory.get(), space.get(), transfer, data), path,
          name);
  }
};

StateData::StateData(const std::string& path) : impl_(std::make_unique<Impl>(path)) {
  open_file();
}

StateData::~StateData() = default;

void StateData::open_file() {
  Impl& s = *impl_;
  s.file = H5Handle(checked(H5Fopen(s.path.c_str(), H5F_ACC_RDWR, s.access.get()), s.path, "file"),
                    H5Fclose);
}

void StateData::open(const std::string& name) {
  Impl& s = *impl_;
  announce("write", s.path + ":/" + name);
  check(s.dataset.reset(), s.path, s.name);
  s.name = name;
  s.dataset = H5Handle(
      checked(H5Dopen2(s.file.get(), ("/" + name).c_str(), H5P_DEFAULT), s.path, name), H5Dclose);
}

void StateData::write(const Piece& piece, const void* data) {
  impl_->write(&piece, data, H5P_DEFAULT);
}

void StateData::close() {
  Impl& s = *impl_;
  announce("write", s.path);
  // All of it also after a failure: other ranks may be closing with us. The first reason counts.
  std::string reason;
  const auto note = [&](herr_t code) {
    if (code < 0 && reason.empty()) reason = h5_reason();
  };
  note(s.dataset.reset());
  note(s.file.reset());
  if (!reason.empty()) fail(s.path, "cannot be written: " + reason);
  // Not H5Fflush, which is MPI_File_sync here: after a write that failed, Open MPI's returns at
  // once on the rank that met it, for the rest of its life, and the others wait in it for ever.
  if (s.ranks != nullptr && !s.ranks->is_root()) sync_file(s.path);
}

#ifdef KOKOMOE_PARALLEL_HDF5

bool can_write_together() {
  return true;
}

StateData::StateData(const std::string& path, const Communicator& ranks)
    : impl_(std::make_unique<Impl>(path)) {
  Impl& s = *impl_;
  s.ranks = &ranks;
  announce("open", path);
  // Where a rank alone cannot, MPI_File_open may leave the others waiting.
  const int probe = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (probe < 0) fail(path, std::string("cannot be opened: ") + std::strerror(errno));
  ::close(probe);
  s.collective = H5Handle(checked(H5Pcreate(H5P_DATASET_XFER), path, "file"), H5Pclose);
  check(H5Pset_dxpl_mpio(s.collective.get(), H5FD_MPIO_COLLECTIVE), path, "file");
}

void StateData::connect() {
  Impl& s = *impl_;
  check(H5Pset_fapl_mpio(s.access.get(), mpi_comm(*s.ranks), MPI_INFO_NULL), s.path, "file");
  announce("connect", s.path);
}

void StateData::write_together(const Piece* piece, const void* data) {
  impl_->write(piece, data, impl_->collective.get());
}

#else

bool can_write_together() {
  return false;
}

StateData::StateData(const std::string& path, const Communicator&) {
  fail(path, "this Kokomoe cannot write from several ranks at once");
}

void StateData::connect() {}

void StateData::write_together(const Piece*, const void*) {}

#endif

}  // namespace kokomoe::detail

#endif
