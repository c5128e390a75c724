// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#include "fuzz/state_builder.hpp"

#include "fuzz/bytes.hpp"
#include "io/digest.hpp"
#include "io/hdf5_handles.hpp"
#include "io/tensor_pieces.hpp"
#include "support/temporary_folder.hpp"

#include <algorithm>
#include <map>

namespace kokomoe::fuzz {

namespace {

using detail::H5Handle;

constexpr std::uint64_t most_bytes = 16384;  // of a dataset's data: time goes elsewhere

/// A kind of link of our own, which goes nowhere. External ones are the kind before.
constexpr H5L_type_t nowhere_type = static_cast<H5L_type_t>(H5L_TYPE_EXTERNAL + 1);

/// A template, since its parameters differ between versions of HDF5.
template <class... Arguments>
hid_t follow_nowhere(Arguments...) {
  return H5I_INVALID_HID;
}

struct Shape {
  std::vector<hsize_t> dims;
  bool null = false;
  std::uint64_t elements() const {  // at most most_bytes + 1
    std::uint64_t product = null ? 0 : 1;
    for (const hsize_t extent : dims) {
      if (extent == 0) return 0;
      product = extent > most_bytes || product > most_bytes ? most_bytes + 1 : product * extent;
    }
    return std::min(product, most_bytes + 1);
  }
};

/// Calls to HDF5 that fail are passed over: then the file has less in it.
class Builder {
 public:
  Builder(const std::string& path, const std::string& outside, Bytes& bytes)
      : outside_(outside), bytes_(bytes) {
    const std::uint8_t flags = bytes_.next();
    const H5F_libver_t floors[] = {H5F_LIBVER_EARLIEST, H5F_LIBVER_V18, H5F_LIBVER_V110};
    const H5Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
    H5Pset_libver_bounds(access.get(), floors[(flags & 3) % 3], H5F_LIBVER_V110);
    H5Pset_fclose_degree(access.get(), H5F_CLOSE_STRONG);
    const H5Handle creation(H5Pcreate(H5P_FILE_CREATE), H5Pclose);
    H5Pset_obj_track_times(creation.get(), false);
    if ((flags & 4) != 0) H5Pset_userblock(creation.get(), 512);
    if ((flags & 8) != 0) {
      H5Pset_link_creation_order(creation.get(), H5P_CRT_ORDER_TRACKED | H5P_CRT_ORDER_INDEXED);
      H5Pset_link_phase_change(creation.get(), 0, 0);
    }
    if ((flags & 16) != 0)
      H5Pset_file_space_strategy(creation.get(), H5F_FSPACE_STRATEGY_PAGE, false, 1);
    if ((flags & 32) != 0) H5Pset_shared_mesg_nindexes(creation.get(), 1);
    std::filesystem::remove(path);
    file_ =
        H5Handle(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, creation.get(), access.get()), H5Fclose);
    objects_.emplace_back("/");
    groups_.emplace_back("/");
    if ((flags & 64) == 0) ordinary();
  }

  /// What a checkpoint has, in small.
  void ordinary() {
    write_integer("/", "format_version", 1);
    write_integer("/", "step", 7);
    for (const char* name : {"/parameters", "/optimizer", "/optimizer/m", "/optimizer/v",
                             "/router_state", "/digests", "/digests/parameters"})
      group(name);
    const std::string name = "/parameters/w";
    dataset(name, H5T_IEEE_F32LE, {{3, 2}}, plain(), true);
    digests(name, 0);
  }

  void operation() {
    switch (bytes_.below(14)) {
      case 0:
        return group(place());
      case 1:
      case 2:
        return odd_dataset();
      case 3:
      case 4:
        return digests(datasets_.empty() ? "/" : datasets_[pick(datasets_)], bytes_.next());
      case 5: {
        const std::string from = objects_[pick(objects_)];
        return hard_link(from, place());
      }
      case 6: {
        const std::string target = bytes_.flag() ? objects_[pick(objects_)] : place();
        H5Lcreate_soft(target.c_str(), file_.get(), place().c_str(), H5P_DEFAULT, H5P_DEFAULT);
        return;
      }
      case 7: {
        const std::string inside = outside_object();
        H5Lcreate_external(outside_.c_str(), inside.c_str(), file_.get(), place().c_str(),
                           H5P_DEFAULT, H5P_DEFAULT);
        return;
      }
      case 8:
        return odd_attribute();
      case 9: {
        const std::string name = place();
        const H5Handle type = type_of(bytes_.next());
        if (H5Tcommit2(file_.get(), name.c_str(), type.get(), H5P_DEFAULT, H5P_DEFAULT,
                       H5P_DEFAULT) >= 0)
          objects_.push_back(name);
        return;
      }
      case 10:
        H5Ldelete(file_.get(), place().c_str(), H5P_DEFAULT);
        return;
      case 11:
        return ladder();
      case 12:
        H5Lmove(file_.get(), objects_[pick(objects_)].c_str(), file_.get(), place().c_str(),
                H5P_DEFAULT, H5P_DEFAULT);
        return;
      default:
        H5Lcreate_ud(file_.get(), place().c_str(), nowhere_type, nullptr, 0, H5P_DEFAULT,
                     H5P_DEFAULT);
    }
  }

  std::vector<std::string> datasets() const {
    std::vector<std::string> names;
    for (const std::string& name : datasets_) names.push_back(name.substr(1));
    return names;
  }

  void write_integer(const std::string& object, const std::string& name, std::int64_t value) {
    const H5Handle space(H5Screate(H5S_SCALAR), H5Sclose);
    const H5Handle attribute(
        H5Acreate_by_name(file_.get(), object.c_str(), name.c_str(), H5T_STD_I64LE, space.get(),
                          H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT),
        H5Aclose);
    if (attribute.valid()) H5Awrite(attribute.get(), H5T_NATIVE_INT64, &value);
  }

 private:
  template <class List>
  std::size_t pick(const List& list) {
    return bytes_.below(std::min<std::size_t>(list.size(), 256));
  }

  std::string name() {
    static const char* const names[] = {
        "parameters",     "optimizer", "m",   "v",        "router_state", "digests",  "w",   "a",
        "format_version", "step",      "w w", "\xff\xfe", "%s%n",         "\x1b[31m", "b.c", "..."};
    const std::size_t which = bytes_.below(24);
    if (which < std::size(names)) return names[which];
    if (which == 23) return std::string(1020 + bytes_.below(8), 'n');
    if (which == 22) return std::string(5000, 'n');  // HDF5 copies paths at every step
    std::string text = bytes_.text(bytes_.below(12));
    // HDF5 would split or cut it there.
    std::replace(text.begin(), text.end(), '/', '_');
    std::replace(text.begin(), text.end(), '\0', '_');
    return text.empty() || text == "." ? "x" : text;
  }

  /// A name in some group.
  std::string place() {
    const std::string group = groups_[pick(groups_)];
    return (group == "/" ? "" : group) + "/" + name();
  }

  std::string outside_object() {
    const char* const names[] = {"/", "/parameters", "/parameters/w", "/digests/parameters/w"};
    return names[bytes_.below(4)];
  }

  void group(const std::string& name) {
    const H5Handle group(
        H5Gcreate2(file_.get(), name.c_str(), H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT), H5Gclose);
    if (!group.valid()) return;
    groups_.push_back(name);
    objects_.push_back(name);
  }

  void hard_link(const std::string& from, const std::string& to) {
    if (H5Lcreate_hard(file_.get(), from.c_str(), file_.get(), to.c_str(), H5P_DEFAULT,
                       H5P_DEFAULT) >= 0)
      objects_.push_back(to);
  }

  /// Groups that each have several names in the one above, so that paths are many.
  void ladder() {
    const std::string top = place();
    const std::size_t depth = 1 + bytes_.below(24), width = 1 + bytes_.below(8);
    const bool tensor = bytes_.flag();
    group(top);
    std::string above = top;
    for (std::size_t i = 0; i < depth; ++i) {
      const bool last = tensor && i + 1 == depth;
      if (last)
        dataset(above + "/0", H5T_IEEE_F32LE, {{1}}, plain(), true);
      else
        group(above + "/0");
      for (std::size_t j = 1; j < width; ++j)
        hard_link(above + "/0", above + "/" + std::to_string(j));
      if (!last) above += "/0";
    }
  }

  static H5Handle plain() {
    H5Handle plist(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
    H5Pset_obj_track_times(plist.get(), false);
    H5Pset_alloc_time(plist.get(), H5D_ALLOC_TIME_EARLY);
    return plist;
  }

  H5Handle type_of(std::uint8_t which) {
    const auto copy = [](hid_t type) { return H5Handle(H5Tcopy(type), H5Tclose); };
    const auto sized = [&](hid_t type, std::size_t bytes) {
      H5Handle result = copy(type);
      H5Tset_size(result.get(), bytes);
      return result;
    };
    switch (which % 24) {
      case 1:
        return copy(H5T_IEEE_F64LE);
      case 2:
        return copy(H5T_STD_U64LE);
      case 3:
        return copy(H5T_IEEE_F32BE);
      case 4:
        return copy(H5T_IEEE_F64BE);
      case 5:
        return copy(H5T_STD_U64BE);
      case 6:
        return copy(H5T_STD_I64LE);
      case 7:
        return copy(H5T_STD_I8LE);
      case 8: {  // numbers with another meaning of the same bits
        H5Handle type = copy(H5T_IEEE_F32LE);
        H5Tset_ebias(type.get(), 99);
        return type;
      }
      case 9: {
        H5Handle type = copy(H5T_STD_U64LE);
        H5Tset_precision(type.get(), 63);
        return type;
      }
      case 10:
        return sized(H5T_C_S1, 8);
      case 11:
        return sized(H5T_C_S1, H5T_VARIABLE);
      case 12: {
        H5Handle type(H5Tcreate(H5T_COMPOUND, 8), H5Tclose);
        H5Tinsert(type.get(), "a", 0, H5T_IEEE_F32LE);
        return type;
      }
      case 13: {
        H5Handle type(H5Tenum_create(H5T_STD_I64LE), H5Tclose);
        const std::int64_t value = 1;
        H5Tenum_insert(type.get(), "one", &value);
        return type;
      }
      case 14: {
        const hsize_t two = 2;
        return H5Handle(H5Tarray_create2(H5T_IEEE_F32LE, 1, &two), H5Tclose);
      }
      case 15:
        return H5Handle(H5Tvlen_create(H5T_STD_I64LE), H5Tclose);
      case 16:
        return sized(H5T_NATIVE_OPAQUE, 8);
      case 17:
        return copy(H5T_STD_REF_OBJ);
      case 18:
        return copy(H5T_STD_B64LE);
      case 19:
        return copy(H5T_UNIX_D64LE);
      case 20:
        return sized(H5T_STD_I64LE, 16);
      case 21:
        return sized(H5T_IEEE_F64LE, 16);
      default:
        return copy(H5T_IEEE_F32LE);
    }
  }

  Shape shape() {
    Shape result;
    const std::size_t kind = bytes_.below(16);
    std::size_t rank = kind < 12 ? 1 + kind % 3 : kind == 12 ? 0 : bytes_.below(33);
    result.null = kind == 15;
    if (result.null) rank = 0;
    for (std::size_t i = 0; i < rank; ++i) {
      const std::uint8_t extent = bytes_.next();
      const hsize_t huge = hsize_t(1) << (extent & 63);
      result.dims.push_back(extent < 128 ? extent % 9 : extent < 192 ? huge : huge - 1);
    }
    return result;
  }

  H5Handle layout(const Shape& shape) {
    H5Handle plist(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
    H5Pset_obj_track_times(plist.get(), false);
    const std::uint8_t how = bytes_.next();
    const hid_t id = plist.get();
    const H5D_alloc_time_t times[] = {H5D_ALLOC_TIME_EARLY, H5D_ALLOC_TIME_LATE,
                                      H5D_ALLOC_TIME_INCR, H5D_ALLOC_TIME_DEFAULT};
    // Room for a huge shape would make a huge file.
    H5Pset_alloc_time(id, shape.elements() > most_bytes ? H5D_ALLOC_TIME_LATE : times[how >> 6]);
    if ((how & 32) != 0) H5Pset_fill_time(id, H5D_FILL_TIME_NEVER);
    switch (how & 15) {
      case 1:
        H5Pset_layout(id, H5D_COMPACT);
        break;
      case 2:
      case 3:
      case 4:
      case 5: {
        std::vector<hsize_t> chunk;
        for (const hsize_t extent : shape.dims) chunk.push_back(std::clamp<hsize_t>(extent, 1, 4));
        if (!chunk.empty()) H5Pset_chunk(id, static_cast<int>(chunk.size()), chunk.data());
        if ((how & 15) == 3) H5Pset_deflate(id, 6);
        if ((how & 15) == 4) H5Pset_shuffle(id);
        if ((how & 15) == 5) H5Pset_fletcher32(id);
        break;
      }
      case 6:
        H5Pset_external(id, outside_.c_str(), 0, H5F_UNLIMITED);
        H5Pset_fill_time(id, H5D_FILL_TIME_NEVER);
        break;
      case 7:
        virtual_layout(id, shape);
        break;
      default:
        break;
    }
    return plist;
  }

  /// From the file outside, with an axis that grows as that file does.
  void virtual_layout(hid_t plist, const Shape& shape) {
    if (shape.dims.empty()) return;
    const std::size_t rank = shape.dims.size();
    std::vector<hsize_t> most = shape.dims, start(rank, 0), count(rank, 1), block = shape.dims;
    if (bytes_.flag()) {
      most[0] = count[0] = H5S_UNLIMITED;
      block[0] = 1;
    }
    const H5Handle space(H5Screate_simple(static_cast<int>(rank), shape.dims.data(), most.data()),
                         H5Sclose);
    H5Sselect_hyperslab(space.get(), H5S_SELECT_SET, start.data(), nullptr, count.data(),
                        block.data());
    H5Pset_virtual(plist, space.get(), outside_.c_str(), "/parameters/w", space.get());
  }

  void odd_dataset() {
    const std::string name = place();
    const H5Handle type = type_of(bytes_.next());
    const Shape extents = shape();
    const H5Handle plist = layout(extents);
    dataset(name, type.get(), extents, plist, bytes_.flag());
  }

  void dataset(const std::string& name, hid_t type, const Shape& shape, const H5Handle& plist,
               bool filled) {
    const int rank = static_cast<int>(shape.dims.size());
    // A growing axis, where chunks or other files allow one.
    std::vector<hsize_t> most = shape.dims;
    const H5D_layout_t stored = H5Pget_layout(plist.get());
    if (rank > 0 && (stored == H5D_CHUNKED || stored == H5D_VIRTUAL)) most[0] = H5S_UNLIMITED;
    const H5Handle space(shape.null  ? H5Screate(H5S_NULL)
                         : rank == 0 ? H5Screate(H5S_SCALAR)
                                     : H5Screate_simple(rank, shape.dims.data(), most.data()),
                         H5Sclose);
    const H5Handle dataset(H5Dcreate2(file_.get(), name.c_str(), type, space.get(), H5P_DEFAULT,
                                      plist.get(), H5P_DEFAULT),
                           H5Dclose);
    if (!dataset.valid()) return;
    objects_.push_back(name);
    datasets_.push_back(name);
    const std::size_t element = H5Tget_size(type);
    const std::uint64_t bytes = shape.elements() * element;
    const H5T_class_t kind = H5Tget_class(type);
    const bool is_plain = kind == H5T_FLOAT || kind == H5T_INTEGER || kind == H5T_BITFIELD;
    shapes_[name] = shape;
    if (!filled || !is_plain || bytes > most_bytes || stored == H5D_VIRTUAL ||
        H5Pget_external_count(plist.get()) > 0)
      return;
    std::vector<std::uint8_t> data(bytes);
    for (std::size_t i = 0; i < data.size(); ++i)
      data[i] = static_cast<std::uint8_t>(i % element == element - 1 ? 0x3f : 7 * i);
    H5Dwrite(dataset.get(), type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data.data());
    data_[name] = std::move(data);
  }

  /// The digests of a dataset, right or not.
  void digests(const std::string& tensor, std::uint8_t how) {
    const auto& shape = shapes_[tensor].dims;
    const std::vector<std::uint8_t>& data = data_[tensor];
    const std::size_t blocks =
        shape.empty() ? 0 : detail::digest_blocks({shape.begin(), shape.end()}, (how & 8) != 0);
    std::vector<std::uint64_t> values(std::min<std::size_t>(blocks, 1000));
    for (std::size_t i = 0; i < values.size() && !data.empty(); ++i) {
      const std::size_t bytes = data.size() / blocks;
      values[i] = detail::xxh3(data.data() + i * bytes, bytes);
    }
    switch (how & 7) {
      case 1:
        values.resize(values.size() / 2);
        break;
      case 2:
        values.push_back(0);
        break;
      case 3:
        if (!values.empty()) ++values.back();
        break;
      default:
        break;
    }
    const std::string name = "/digests" + tensor;
    const H5Handle links(H5Pcreate(H5P_LINK_CREATE), H5Pclose);
    H5Pset_create_intermediate_group(links.get(), 1);
    const hsize_t dims[] = {values.size(), 1};
    const H5Handle space(H5Screate_simple((how & 7) == 4 ? 2 : 1, dims, nullptr), H5Sclose);
    const H5Handle dataset(
        H5Dcreate2(file_.get(), name.c_str(), (how & 7) == 5 ? H5T_IEEE_F64LE : H5T_STD_U64LE,
                   space.get(), links.get(), plain().get(), H5P_DEFAULT),
        H5Dclose);
    if (!dataset.valid()) return;
    objects_.push_back(name);
    if (!values.empty())
      H5Dwrite(dataset.get(), H5T_NATIVE_UINT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data());
  }

  /// On the file for the most part, since readers look there.
  void odd_attribute() {
    const std::string object = bytes_.flag() ? objects_[pick(objects_)] : "/";
    const std::string text = bytes_.flag() ? "step" : bytes_.flag() ? "format_version" : name();
    H5Adelete_by_name(file_.get(), object.c_str(), text.c_str(), H5P_DEFAULT);
    const H5Handle type = type_of(bytes_.next());
    Shape extents = shape();
    if (extents.elements() * H5Tget_size(type.get()) > most_bytes) extents.dims = {2};
    const int rank = static_cast<int>(extents.dims.size());
    const H5Handle space(extents.null ? H5Screate(H5S_NULL)
                         : rank == 0  ? H5Screate(H5S_SCALAR)
                                      : H5Screate_simple(rank, extents.dims.data(), nullptr),
                         H5Sclose);
    const H5Handle attribute(
        H5Acreate_by_name(file_.get(), object.c_str(), text.c_str(), type.get(), space.get(),
                          H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT),
        H5Aclose);
    const H5T_class_t kind = H5Tget_class(type.get());
    if (!attribute.valid() || (kind != H5T_INTEGER && kind != H5T_FLOAT)) return;
    std::vector<std::uint8_t> data(extents.elements() * H5Tget_size(type.get()), bytes_.next());
    if (!data.empty()) H5Awrite(attribute.get(), type.get(), data.data());
  }

  std::string outside_;
  Bytes& bytes_;
  H5Handle file_;
  std::vector<std::string> objects_, groups_, datasets_;
  std::map<std::string, Shape> shapes_;
  std::map<std::string, std::vector<std::uint8_t>> data_;
};

void register_nowhere() {
  static const H5L_class_t nowhere = {
      H5L_LINK_CLASS_T_VERS, nowhere_type, "nowhere", nullptr, nullptr, nullptr,
      follow_nowhere,        nullptr,      nullptr};
  H5Lregister(&nowhere);
}

void flip_bytes(const std::string& path, Bytes& bytes) {
  std::string text = test::read_text(path);
  while (!bytes.empty() && !text.empty()) {
    const std::size_t high = bytes.next(), low = bytes.next();
    const std::size_t at = (256 * high + low) % text.size();
    text[at] = static_cast<char>(text[at] ^ (1 << bytes.below(8)));
  }
  test::write_text(path, text);
}

}  // namespace

Built build_state(const std::string& path, const std::string& outside, const std::uint8_t* data,
                  std::size_t size, bool raw) {
  const detail::H5Silence silence;
  register_nowhere();
  Bytes bytes(data, size);
  Built built;
  const std::size_t pieces[] = {1, 8, 64, 4096};
  built.piece_bytes = pieces[bytes.below(4)];
  {
    Builder builder(path, outside, bytes);
    const std::size_t operations = raw ? bytes.below(8) : 64;
    for (std::size_t i = 0; i < operations && !bytes.empty(); ++i) builder.operation();
    built.names = builder.datasets();
  }
  if (raw) flip_bytes(path, bytes);
  return built;
}

void build_outside(const std::string& path) {
  const detail::H5Silence silence;
  Bytes none(nullptr, 0);
  const Builder builder(path, path, none);
}

}  // namespace kokomoe::fuzz
