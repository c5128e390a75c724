// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "io/state_file.hpp"
#include "kokomoe/config.hpp"

#ifdef KOKOMOE_HAVE_HDF5

#include "io/hdf5_calls.hpp"

#include <algorithm>
#include <filesystem>
#include <set>

namespace kokomoe::detail {

struct StateReader::Impl {
  std::string path;
  H5Silence silence;
  std::uint64_t file_bytes = 0;
  H5Handle file;
  std::vector<std::string> names;
  std::set<std::string> walked;  ///< addresses of objects

  [[noreturn]] void damaged(const std::string& name, const std::string& why) const {
    throw DamagedCheckpoint(path + ": error: " + (name.empty() ? "" : "/" + name + ": ") + why);
  }

  std::int64_t attribute(const char* name) const {
    const H5Handle attribute(H5Aopen(file.get(), name, H5P_DEFAULT), H5Aclose);
    std::int64_t value = 0;
    if (!attribute.valid()) damaged("", std::string("attribute \"") + name + "\" is missing");
    const H5Handle space(H5Aget_space(attribute.get()), H5Sclose);
    const H5Handle type(H5Aget_type(attribute.get()), H5Tclose);
    if (H5Sget_simple_extent_npoints(space.get()) != 1 || H5Tget_class(type.get()) != H5T_INTEGER ||
        H5Aread(attribute.get(), H5T_NATIVE_INT64, &value) < 0)
      damaged("", std::string("attribute \"") + name + "\" is no integer");
    return value;
  }

  /// Only hard links lead to it: others could lead out of the file.
  void check_links(const std::string& name) const {
    std::size_t end = 0;
    while (end != std::string::npos) {
      end = name.find('/', end + 1);
      const std::string above = name.substr(0, end);
      H5L_info_t link;
      if (H5Lget_info(file.get(), above.c_str(), &link, H5P_DEFAULT) >= 0 &&
          link.type != H5L_TYPE_HARD)
        damaged(above, "is no plain object");
    }
  }

  /// Collects datasets below a group, over hard links.
  void walk(const std::string& group_name, int depth) {
    if (depth == 0) check_links(group_name);
    const H5Handle group(H5Gopen2(file.get(), ("/" + group_name).c_str(), H5P_DEFAULT), H5Gclose);
    if (!group.valid()) damaged(group_name, "group is missing");
    H5G_info_t info;
    if (H5Gget_info(group.get(), &info) < 0) damaged(group_name, "group cannot be read");
    for (hsize_t i = 0; i < info.nlinks; ++i) {
      char text[1024];
      const ssize_t length = H5Lget_name_by_idx(group.get(), ".", H5_INDEX_NAME, H5_ITER_INC, i,
                                                text, sizeof text, H5P_DEFAULT);
      if (length <= 0 || length >= static_cast<ssize_t>(sizeof text))
        damaged(group_name, "a name in it cannot be read");
      const std::string name = group_name + "/" + text;
      H5L_info_t link;
      if (H5Lget_info(group.get(), text, &link, H5P_DEFAULT) < 0 || link.type != H5L_TYPE_HARD)
        damaged(name, "is no plain object");
      // Links may make a file's tree endless, or give it more paths than anyone can walk.
      if (!walked.emplace(reinterpret_cast<const char*>(&link.u), sizeof link.u).second)
        damaged(name, "is a second name of an object");
      if (names.size() > 1000000) damaged(group_name, "holds more than a million tensors");
      const H5Handle object(H5Oopen(group.get(), text, H5P_DEFAULT), H5Oclose);
      const H5I_type_t type = object.valid() ? H5Iget_type(object.get()) : H5I_BADID;
      if (type == H5I_DATASET)
        names.push_back(name);
      else if (type == H5I_GROUP && depth < 16)
        walk(name, depth + 1);
      else
        damaged(name, "is no dataset");
    }
  }

  H5Handle open(const std::string& name) const {
    check_links(name);
    H5Handle dataset(H5Dopen2(file.get(), ("/" + name).c_str(), H5P_DEFAULT), H5Dclose);
    if (!dataset.valid()) damaged(name, "dataset is missing");
    return dataset;
  }

  TensorHeader header(hid_t dataset, const std::string& name) const {
    TensorHeader result;
    const H5Handle plist(H5Dget_create_plist(dataset), H5Pclose);
    // What external files or filters would make of it, no digest has seen. Comes
    // first: of a virtual one even the extent is looked for in other files.
    if (H5Pget_layout(plist.get()) != H5D_CONTIGUOUS || H5Pget_external_count(plist.get()) != 0 ||
        H5Pget_nfilters(plist.get()) != 0)
      damaged(name, "its data is not stored in one plain piece");
    const H5Handle type(H5Dget_type(dataset), H5Tclose);
    const H5Handle space(H5Dget_space(dataset), H5Sclose);
    std::size_t element = 8;
    if (H5Tequal(type.get(), H5T_IEEE_F32LE) > 0) {
      result.dtype = "float32";
      element = 4;
    } else if (H5Tequal(type.get(), H5T_IEEE_F64LE) > 0) {
      result.dtype = "float64";
    } else if (H5Tequal(type.get(), H5T_STD_U64LE) > 0) {
      result.dtype = "uint64";
    } else {
      damaged(name, "its type is not one of float32, float64 and uint64");
    }
    const int rank = H5Sget_simple_extent_ndims(space.get());
    if (rank < 1 || rank > 8) damaged(name, "its rank is " + std::to_string(rank));
    hsize_t dims[H5S_MAX_RANK];
    H5Sget_simple_extent_dims(space.get(), dims, nullptr);
    std::uint64_t bytes = element;
    for (int i = 0; i < rank; ++i) {
      if (dims[i] != 0 && bytes > file_bytes / dims[i])
        damaged(name, "its shape holds more than the file");
      bytes *= dims[i];
      result.shape.push_back(dims[i]);
    }
    if (bytes > 0 && H5Dget_storage_size(dataset) != bytes)
      damaged(name, "its data does not fill its shape");
    result.bytes = bytes;
    return result;
  }

  void read(hid_t dataset, const std::string& name, const TensorHeader& tensor, const Piece& piece,
            std::vector<std::byte>& bytes) const {
    bytes.resize(piece.elements * tensor.element_bytes());
    if (bytes.empty()) return;
    const hsize_t elements = piece.elements;
    const H5Handle space(H5Dget_space(dataset), H5Sclose);
    const H5Handle memory(H5Screate_simple(1, &elements, nullptr), H5Sclose);
    if (select_piece(space.get(), piece) < 0 ||
        H5Dread(dataset, memory_type(tensor.dtype), memory.get(), space.get(), H5P_DEFAULT,
                bytes.data()) < 0)
      damaged(name, "cannot be read: " + h5_reason());
  }

  /// The digests of a tensor's blocks.
  std::vector<std::uint64_t> digests(const std::string& name, const TensorHeader& tensor) const {
    const std::string digest_name = "digests/" + name;
    const H5Handle dataset = open(digest_name);
    const TensorHeader found = header(dataset.get(), digest_name);
    const std::size_t count = found.bytes / sizeof(std::uint64_t);
    if (found.dtype != "uint64" || found.shape.size() != 1 ||
        (count != digest_blocks(tensor.shape, true) && count != digest_blocks(tensor.shape, false)))
      damaged(digest_name, "has not one digest for each block");
    std::vector<std::uint64_t> values(count);
    if (count > 0 &&
        H5Dread(dataset.get(), H5T_NATIVE_UINT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()) < 0)
      damaged(digest_name, "cannot be read: " + h5_reason());
    return values;
  }
};

StateReader::StateReader(const std::string& path) : impl_(std::make_unique<Impl>()) {
  Impl& s = *impl_;
  s.path = path;
  std::error_code code;
  s.file_bytes = std::filesystem::file_size(path, code);
  s.file = H5Handle(H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT), H5Fclose);
  if (!s.file.valid()) s.damaged("", "HDF5 cannot open it: " + h5_reason());
  const std::int64_t version = s.attribute("format_version");
  if (version < 1 || version > checkpoint_format)
    s.damaged("", "format version " + std::to_string(version));
  for (const char* name : {"parameters", "optimizer", "router_state"}) s.walk(name, 0);
  std::sort(s.names.begin(), s.names.end());
}

StateReader::~StateReader() = default;

const std::string& StateReader::path() const {
  return impl_->path;
}
std::int64_t StateReader::step() const {
  return impl_->attribute("step");
}
std::vector<std::string> StateReader::names() const {
  return impl_->names;
}

TensorHeader StateReader::header(const std::string& name) const {
  const H5Handle dataset = impl_->open(name);
  return impl_->header(dataset.get(), name);
}

namespace {

std::vector<Piece> pieces_of(const TensorHeader& tensor) {
  return cut_rows(tensor.shape, 0, tensor.shape[0], tensor.element_bytes(),
                  checkpoint_tuning.piece_bytes);
}

}  // namespace

std::vector<Piece> StateReader::pieces(const std::string& name) const {
  return pieces_of(header(name));
}

void StateReader::read(const std::string& name, const Piece& piece, Bytes& bytes) const {
  const H5Handle dataset = impl_->open(name);
  impl_->read(dataset.get(), name, impl_->header(dataset.get(), name), piece, bytes);
}

void StateReader::verify(const std::string& name,
                         const std::function<void(const Bytes&)>& take) const {
  const H5Handle dataset = impl_->open(name);
  const TensorHeader tensor = impl_->header(dataset.get(), name);
  const std::vector<std::uint64_t> stored = impl_->digests(name, tensor);
  if (stored.empty()) return;
  BlockDigests found(tensor.bytes / stored.size());
  Bytes bytes;
  for (const Piece& piece : pieces_of(tensor)) {
    impl_->read(dataset.get(), name, tensor, piece, bytes);
    found.add(bytes.data(), bytes.size());
    if (take) take(bytes);
  }
  for (std::size_t i = 0; i < stored.size(); ++i)
    if (stored[i] != found.values()[i])
      impl_->damaged(name, "block " + std::to_string(i) + " of " + std::to_string(stored.size()) +
                               " does not have its digest");
}

}  // namespace kokomoe::detail

#else

namespace kokomoe::detail {

namespace {
[[noreturn]] void no_hdf5() {
  throw InputError(
      "this Kokomoe was built without HDF5, which checkpoints need: configure with "
      "-DKOKOMOE_ENABLE_HDF5=ON");
}
}  // namespace

std::vector<DatasetRecord> create_state(const std::string&, const CheckpointMeta&,
                                        const std::vector<TensorLayout>&) {
  no_hdf5();
}
bool can_write_together() {
  return false;
}

struct StateData::Impl {};
StateData::StateData(const std::string&) {
  no_hdf5();
}
StateData::StateData(const std::string&, const Communicator&) {
  no_hdf5();
}
StateData::~StateData() = default;
void StateData::open(const std::string&) {
  no_hdf5();
}
void StateData::write(const Piece&, const void*) {
  no_hdf5();
}
void StateData::write_together(const Piece*, const void*) {
  no_hdf5();
}
void StateData::close() {
  no_hdf5();
}

struct StateReader::Impl {};
StateReader::StateReader(const std::string&) {
  no_hdf5();
}
StateReader::~StateReader() = default;
const std::string& StateReader::path() const {
  no_hdf5();
}
std::int64_t StateReader::step() const {
  no_hdf5();
}
std::vector<std::string> StateReader::names() const {
  no_hdf5();
}
TensorHeader StateReader::header(const std::string&) const {
  no_hdf5();
}
std::vector<Piece> StateReader::pieces(const std::string&) const {
  no_hdf5();
}
void StateReader::read(const std::string&, const Piece&, Bytes&) const {
  no_hdf5();
}
void StateReader::verify(const std::string&, const std::function<void(const Bytes&)>&) const {
  no_hdf5();
}

}  // namespace kokomoe::detail

#endif
