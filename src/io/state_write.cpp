// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "io/state_file.hpp"
#include "kokomoe/config.hpp"

#ifdef KOKOMOE_HAVE_HDF5

#include "io/digest.hpp"
#include "io/disk.hpp"
#include "io/hdf5_handles.hpp"

#include <algorithm>
#include <cstring>

namespace kokomoe::detail {

namespace {

[[noreturn]] void fail_write(const std::string& path, const std::string& what) {
  fail(path, "cannot write " + what + ": " + h5_reason());
}

hid_t checked(hid_t id, const std::string& path, const std::string& what) {
  if (id < 0) fail_write(path, what);
  return id;
}

void check(herr_t code, const std::string& path, const std::string& what) {
  if (code < 0) fail_write(path, what);
}

/// File types are little-endian whatever the machine.
hid_t file_type(const std::string& dtype) {
  if (dtype == "float32") return H5T_IEEE_F32LE;
  if (dtype == "float64") return H5T_IEEE_F64LE;
  return H5T_STD_U64LE;
}

hid_t memory_type(const std::string& dtype) {
  if (dtype == "float32") return H5T_NATIVE_FLOAT;
  if (dtype == "float64") return H5T_NATIVE_DOUBLE;
  return H5T_NATIVE_UINT64;
}

std::size_t element_size(const std::string& dtype) {
  return dtype == "float32" ? 4 : 8;
}

}  // namespace

struct StateWriter::Impl {
  std::string path;
  H5Silence silence;
  H5Handle file, link_plist, dataset_plist;
  std::vector<DatasetRecord> records;

  void attribute(hid_t object, const char* name, std::int64_t value) {
    const H5Handle space(checked(H5Screate(H5S_SCALAR), path, name), H5Sclose);
    const H5Handle attribute(
        checked(H5Acreate2(object, name, H5T_STD_I64LE, space.get(), H5P_DEFAULT, H5P_DEFAULT),
                path, name),
        H5Aclose);
    check(H5Awrite(attribute.get(), H5T_NATIVE_INT64, &value), path, name);
  }

  /// What each axis is, as far as a store knows: "expert", "axis_1", ...
  void dimensions(hid_t dataset, const TensorSource& tensor) {
    constexpr std::size_t width = 16;
    std::vector<char> names(width * tensor.shape.size(), '\0');
    for (std::size_t i = 0; i < tensor.shape.size(); ++i) {
      const std::string name = tensor.expert && i == 0 ? "expert" : "axis_" + std::to_string(i);
      std::memcpy(names.data() + width * i, name.data(), std::min(name.size(), width - 1));
    }
    const hsize_t count = tensor.shape.size();
    const H5Handle type(checked(H5Tcopy(H5T_C_S1), path, "dimensions"), H5Tclose);
    check(H5Tset_size(type.get(), width), path, "dimensions");
    const H5Handle space(checked(H5Screate_simple(1, &count, nullptr), path, "dimensions"),
                         H5Sclose);
    const H5Handle attribute(checked(H5Acreate2(dataset, "dimensions", type.get(), space.get(),
                                                H5P_DEFAULT, H5P_DEFAULT),
                                     path, "dimensions"),
                             H5Aclose);
    check(H5Awrite(attribute.get(), type.get(), names.data()), path, "dimensions");
  }

  void write(const TensorSource& tensor, bool describe) {
    announce("write", path + ":/" + tensor.name);
    std::vector<hsize_t> dims(tensor.shape.begin(), tensor.shape.end());
    std::size_t size = 1;
    for (const std::size_t extent : tensor.shape) size *= extent;
    const H5Handle space(
        checked(H5Screate_simple(static_cast<int>(dims.size()), dims.data(), nullptr), path,
                tensor.name),
        H5Sclose);
    const H5Handle dataset(
        checked(H5Dcreate2(file.get(), ("/" + tensor.name).c_str(), file_type(tensor.dtype),
                           space.get(), link_plist.get(), dataset_plist.get(), H5P_DEFAULT),
                path, tensor.name),
        H5Dclose);
    if (size > 0)
      check(H5Dwrite(dataset.get(), memory_type(tensor.dtype), H5S_ALL, H5S_ALL, H5P_DEFAULT,
                     tensor.data),
            path, tensor.name);
    if (describe) dimensions(dataset.get(), tensor);
    DatasetRecord record;
    record.name = tensor.name;
    record.shape = tensor.shape;
    record.dtype = tensor.dtype;
    record.bytes = size * element_size(tensor.dtype);
    record.digest = xxh3(tensor.data, record.bytes);
    const haddr_t offset = size > 0 ? H5Dget_offset(dataset.get()) : 0;
    if (offset == HADDR_UNDEF) fail_write(path, tensor.name);
    record.offset = offset;
    records.push_back(std::move(record));
  }

  void group(const char* name) {
    const H5Handle group(
        checked(H5Gcreate2(file.get(), name, link_plist.get(), H5P_DEFAULT, H5P_DEFAULT), path,
                name),
        H5Gclose);
  }
};

StateWriter::StateWriter(const std::string& path, std::int64_t step)
    : impl_(std::make_unique<Impl>()) {
  Impl& s = *impl_;
  s.path = path;
  announce("write", path);
  const H5Handle access(checked(H5Pcreate(H5P_FILE_ACCESS), path, "file"), H5Pclose);
  // Old enough for every reader from 1.10 on, new enough for groups that scale.
  check(H5Pset_libver_bounds(access.get(), H5F_LIBVER_V18, H5F_LIBVER_V110), path, "file");
  s.file = H5Handle(
      checked(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, access.get()), path, "file"),
      H5Fclose);
  s.link_plist = H5Handle(checked(H5Pcreate(H5P_LINK_CREATE), path, "file"), H5Pclose);
  check(H5Pset_create_intermediate_group(s.link_plist.get(), 1), path, "file");
  s.dataset_plist = H5Handle(checked(H5Pcreate(H5P_DATASET_CREATE), path, "file"), H5Pclose);
  // Equal states give equal files.
  check(H5Pset_obj_track_times(s.dataset_plist.get(), false), path, "file");
  check(H5Pset_layout(s.dataset_plist.get(), H5D_CONTIGUOUS), path, "file");
  check(H5Pset_fill_time(s.dataset_plist.get(), H5D_FILL_TIME_NEVER), path, "file");
  s.attribute(s.file.get(), "format_version", checkpoint_format);
  s.attribute(s.file.get(), "step", step);
  for (const char* name :
       {"/parameters", "/optimizer/m", "/optimizer/v", "/router_state", "/digests"})
    s.group(name);
}

StateWriter::~StateWriter() = default;

void StateWriter::add(const TensorSource& tensor) {
  impl_->write(tensor, true);
  std::vector<std::uint64_t> digests(digest_blocks(tensor.shape, tensor.expert));
  const std::size_t block = digests.empty() ? 0 : impl_->records.back().bytes / digests.size();
  for (std::size_t i = 0; i < digests.size(); ++i)
    digests[i] = xxh3(static_cast<const unsigned char*>(tensor.data) + i * block, block);
  TensorSource source;
  source.name = "digests/" + tensor.name;
  source.shape = {digests.size()};
  source.dtype = "uint64";
  source.data = digests.data();
  impl_->write(source, false);
}

std::vector<DatasetRecord> StateWriter::close() {
  Impl& s = *impl_;
  announce("write", s.path);
  check(H5Fflush(s.file.get(), H5F_SCOPE_GLOBAL), s.path, "file");
  check(s.file.reset(), s.path, "file");
  return std::move(s.records);
}

}  // namespace kokomoe::detail

#endif
