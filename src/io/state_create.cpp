// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "io/state_file.hpp"
#include "kokomoe/config.hpp"

#ifdef KOKOMOE_HAVE_HDF5

#include "io/disk.hpp"
#include "io/hdf5_calls.hpp"

#include <algorithm>
#include <cstring>
#include <set>
#include <string>

namespace kokomoe::detail {

namespace {

/// A file under construction.
class Creation {
 public:
  /// At `place`; messages name `path`.
  Creation(const std::string& place, const std::string& path) : path_(path) {
    const H5Handle access(id(H5Pcreate(H5P_FILE_ACCESS), "file"), H5Pclose);
    // The other drivers for one file want its name to be more than a link to an open file.
    check(H5Pset_fapl_stdio(access.get()), path, "file");
    // Old enough for every reader from 1.10 on, new enough for groups that scale.
    check(H5Pset_libver_bounds(access.get(), H5F_LIBVER_V18, H5F_LIBVER_V110), path, "file");
    // Equal states give equal files, whenever they are written: no times.
    const H5Handle creation(id(H5Pcreate(H5P_FILE_CREATE), "file"), H5Pclose);
    check(H5Pset_obj_track_times(creation.get(), false), path, "file");
    file_ =
        H5Handle(id(H5Fcreate(place.c_str(), H5F_ACC_TRUNC, creation.get(), access.get()), "file"),
                 H5Fclose);
    group_plist_ = H5Handle(id(H5Pcreate(H5P_GROUP_CREATE), "file"), H5Pclose);
    check(H5Pset_obj_track_times(group_plist_.get(), false), path, "file");
    dataset_plist_ = H5Handle(id(H5Pcreate(H5P_DATASET_CREATE), "file"), H5Pclose);
    check(H5Pset_obj_track_times(dataset_plist_.get(), false), path, "file");
    check(H5Pset_layout(dataset_plist_.get(), H5D_CONTIGUOUS), path, "file");
    check(H5Pset_alloc_time(dataset_plist_.get(), H5D_ALLOC_TIME_EARLY), path, "file");
    check(H5Pset_fill_time(dataset_plist_.get(), H5D_FILL_TIME_NEVER), path, "file");
  }

  hid_t file() const { return file_.get(); }

  /// A new group, and those above it that are missing.
  H5Handle group(const std::string& name) {
    groups_above(name);
    groups_.insert(name);
    return H5Handle(
        id(H5Gcreate2(file_.get(), name.c_str(), H5P_DEFAULT, group_plist_.get(), H5P_DEFAULT),
           name),
        H5Gclose);
  }

  void attribute(hid_t object, const std::string& name, std::int64_t value) {
    const H5Handle space(id(H5Screate(H5S_SCALAR), name), H5Sclose);
    const H5Handle attribute(
        id(H5Acreate2(object, name.c_str(), H5T_STD_I64LE, space.get(), H5P_DEFAULT, H5P_DEFAULT),
           name),
        H5Aclose);
    check(H5Awrite(attribute.get(), H5T_NATIVE_INT64, &value), path_, name);
  }

  /// One text, or a list of them, of fixed length: h5dump and h5py show both as they are.
  void attribute(hid_t object, const std::string& name, const std::vector<std::string>& texts,
                 bool list) {
    std::size_t width = 2;  // each ends with a zero
    for (const std::string& text : texts) width = std::max(width, text.size() + 1);
    std::vector<char> bytes(width * texts.size(), '\0');
    for (std::size_t i = 0; i < texts.size(); ++i)
      std::memcpy(bytes.data() + width * i, texts[i].data(), texts[i].size());
    const hsize_t count = texts.size();
    const H5Handle type(id(H5Tcopy(H5T_C_S1), name), H5Tclose);
    check(H5Tset_size(type.get(), width), path_, name);
    const H5Handle space(
        id(list ? H5Screate_simple(1, &count, nullptr) : H5Screate(H5S_SCALAR), name), H5Sclose);
    const H5Handle attribute(
        id(H5Acreate2(object, name.c_str(), type.get(), space.get(), H5P_DEFAULT, H5P_DEFAULT),
           name),
        H5Aclose);
    check(H5Awrite(attribute.get(), type.get(), bytes.data()), path_, name);
  }

  H5Handle dataset(const DatasetRecord& record) {
    groups_above(record.name);
    const std::vector<hsize_t> dims(record.shape.begin(), record.shape.end());
    const H5Handle space(
        id(H5Screate_simple(static_cast<int>(dims.size()), dims.data(), nullptr), record.name),
        H5Sclose);
    return H5Handle(id(H5Dcreate2(file_.get(), record.name.c_str(), file_type(record.dtype),
                                  space.get(), H5P_DEFAULT, dataset_plist_.get(), H5P_DEFAULT),
                       record.name),
                    H5Dclose);
  }

  void close() {
    check(H5Fflush(file_.get(), H5F_SCOPE_GLOBAL), path_, "file");
    check(file_.reset(), path_, "file");
  }

 private:
  hid_t id(hid_t value, const std::string& what) const { return checked(value, path_, what); }

  void groups_above(const std::string& name) {
    const std::size_t slash = name.rfind('/');
    if (slash == std::string::npos) return;
    const std::string above = name.substr(0, slash);
    if (groups_.count(above) == 0) group(above);
  }

  std::string path_;
  H5Silence silence_;
  H5Handle file_, group_plist_, dataset_plist_;
  std::set<std::string> groups_;
};

DatasetRecord record_of(const std::string& name, const std::vector<std::size_t>& shape,
                        const std::string& dtype) {
  DatasetRecord record;
  record.name = name;
  record.shape = shape;
  record.dtype = dtype;
  record.bytes = dtype == "float32" ? 4 : 8;
  for (const std::size_t extent : shape) record.bytes *= extent;
  return record;
}

/// What each axis counts; "axis_2" where nobody said.
std::vector<std::string> dimensions(const TensorLayout& tensor) {
  std::vector<std::string> names = tensor.axes;
  names.resize(tensor.shape.size());
  for (std::size_t i = 0; i < names.size(); ++i)
    if (names[i].empty())
      names[i] = tensor.expert && i == 0 ? "expert" : "axis_" + std::to_string(i);
  return names;
}

/// Parameters are pure numbers; moments are of the gradient, so of the loss for each of them.
std::string units(const std::string& name) {
  if (name.starts_with("optimizer/m/")) return "loss";
  if (name.starts_with("optimizer/v/")) return "loss^2";
  return "1";
}

std::vector<DatasetRecord> create_at(const std::string& place, const std::string& path,
                                     const CheckpointMeta& meta,
                                     const std::vector<TensorLayout>& tensors) {
  std::vector<DatasetRecord> records;
  Creation creation(place, path);
  creation.attribute(creation.file(), "format_version", checkpoint_format);
  creation.attribute(creation.file(), "step", meta.step);
  for (const char* name : {"parameters", "optimizer/m", "optimizer/v", "router_state", "digests"})
    creation.group(name);
  {
    const H5Handle counters = creation.group("counters");
    for (const auto& [name, value] : meta.counters) creation.attribute(counters.get(), name, value);
  }
  const auto finish = [&](const H5Handle& dataset, DatasetRecord record) {
    const haddr_t offset = record.bytes > 0 ? H5Dget_offset(dataset.get()) : 0;
    if (offset == HADDR_UNDEF) fail_write(path, record.name);
    record.offset = offset;
    records.push_back(std::move(record));
  };
  for (const TensorLayout& tensor : tensors) {
    DatasetRecord record = record_of(tensor.name, tensor.shape, tensor.dtype);
    const H5Handle dataset = creation.dataset(record);
    creation.attribute(dataset.get(), "dimensions", dimensions(tensor), true);
    creation.attribute(dataset.get(), "units", {units(tensor.name)}, false);
    finish(dataset, std::move(record));
    record =
        record_of("digests/" + tensor.name, {digest_blocks(tensor.shape, tensor.expert)}, "uint64");
    const H5Handle digests = creation.dataset(record);
    creation.attribute(digests.get(), "dimensions", {"block"}, true);
    creation.attribute(digests.get(), "units", {"XXH3-64"}, false);
    finish(digests, std::move(record));
  }
  creation.close();
  return records;
}

std::uint64_t bytes_of(const std::vector<TensorLayout>& tensors) {
  std::uint64_t bytes = 0;
  for (const TensorLayout& tensor : tensors)
    bytes += record_of(tensor.name, tensor.shape, tensor.dtype).bytes;
  return bytes;
}

}  // namespace

std::vector<DatasetRecord> create_state(const std::string& path, const CheckpointMeta& meta,
                                        const std::vector<TensorLayout>& tensors) {
  announce("write", path);
  require_file_size(path, bytes_of(tensors));
  // HDF5 makes the file in memory, all holes but for what describes the tensors. On a full disk it
  // would fail half way through its cache, and trip over what is left of it when the process ends,
  // long after a run has decided to go on.
  const MemoryFile memory;
  const std::string place = memory.valid() ? memory.path() : path;
  std::vector<DatasetRecord> records = create_at(place, path, meta, tensors);
  // A full disk is met here, by one rank, and before anything collective.
  if (memory.valid())
    memory.copy_to(path);
  else
    reserve_file(path);
  return records;
}

}  // namespace kokomoe::detail

#endif
