// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause

// An input's bytes are instructions for building an HDF5 file, which StateReader then has to take
// or refuse. That is behind the digest of the whole file on purpose: what is tested is what a
// program that writes digests could do.
#include "io/state_file.hpp"

#include "fuzz/state_builder.hpp"
#include "fuzz/targets.hpp"
#include "support/temporary_folder.hpp"

#include <hdf5.h>
#include <sys/inotify.h>

#include <algorithm>
#include <cstdlib>
#include <typeinfo>

namespace kokomoe::fuzz {

namespace {

/// A file that nothing in a checkpoint may lead to, and a watch on it.
class Outside {
 public:
  explicit Outside(const std::string& path) : path_(path) {
    build_outside(path);
    watch_ = ::inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (watch_ >= 0) ::inotify_add_watch(watch_, path.c_str(), IN_OPEN);
  }
  ~Outside() {
    if (watch_ >= 0) ::close(watch_);
  }
  Outside(const Outside&) = delete;
  Outside& operator=(const Outside&) = delete;

  const std::string& path() const { return path_; }

  /// Whether anyone opened it since the last call; false where it cannot be watched.
  bool opened() {
    alignas(inotify_event) char events[4096];
    bool any = false;
    while (watch_ >= 0 && ::read(watch_, events, sizeof events) > 0) any = true;
    return any;
  }

 private:
  std::string path_;
  int watch_ = -1;
};

struct Workplace {
  test::TemporaryFolder folder;
  std::string state = folder / "state.h5";
  Outside outside{folder / "outside.h5"};
};

/// What of files HDF5 has open, which a reader must give back.
ssize_t open_identifiers() {
  return H5Fget_obj_count(static_cast<hid_t>(H5F_OBJ_ALL), H5F_OBJ_ALL);
}

/// Calls `work`; InputError is the only way in which a reader may say no.
template <class Work>
bool attempt(const std::string& path, const Work& work) {
  try {
    work();
    return true;
  } catch (const InputError& error) {
    require(std::string(error.what()).starts_with(path + ": error: "),
            std::string("an error without its file: ") + error.what());
    static const bool say = std::getenv("KOKOMOE_FUZZ_SAY") != nullptr;
    if (say) std::fprintf(stderr, "%s\n", error.what());
  } catch (const std::exception& error) {
    broken(std::string(typeid(error).name()) + ": " + error.what());
  }
  return false;
}

void read_tensor(const detail::StateReader& reader, const std::string& name,
                 std::uint64_t file_bytes) {
  const std::string& path = reader.path();
  detail::TensorHeader header;
  if (!attempt(path, [&] { header = reader.header(name); })) return;
  require(header.bytes <= file_bytes, name + " is larger than its file");
  std::vector<detail::Piece> pieces;
  attempt(path, [&] { pieces = reader.pieces(name); });
  std::size_t pieces_bytes = 0;
  for (const detail::Piece& piece : pieces) {
    detail::StateReader::Bytes bytes;
    if (!attempt(path, [&] { reader.read(name, piece, bytes); })) break;
    pieces_bytes += bytes.size();
  }
  require(pieces_bytes <= header.bytes, name + " has more in its pieces than in all");
  std::size_t taken = 0;
  const auto take = [&](const detail::StateReader::Bytes& bytes) { taken += bytes.size(); };
  if (attempt(path, [&] { reader.verify(name, take); }))
    require(taken == header.bytes, name + " is verified in part");
}

void read_state(const std::string& path, const std::vector<std::string>& other_names) {
  const std::uint64_t file_bytes = std::filesystem::file_size(path);
  std::unique_ptr<detail::StateReader> reader;
  if (!attempt(path, [&] { reader = std::make_unique<detail::StateReader>(path); })) return;
  attempt(path, [&] { reader->step(); });
  std::vector<std::string> names = reader->names();
  require(std::is_sorted(names.begin(), names.end()), "names are in disorder");
  if (names.size() > 64) names.resize(64);
  // A caller may ask for more than is there.
  names.insert(names.end(), other_names.begin(), other_names.end());
  names.insert(names.end(), {"", "/", ".", "parameters", "parameters/none", "digests"});
  for (const std::string& name : names) read_tensor(*reader, name, file_bytes);
}

}  // namespace

void state(const std::uint8_t* data, std::size_t size) {
  static Workplace place;
  static const bool raw = std::getenv("KOKOMOE_FUZZ_RAW") != nullptr;
  const Built built = build_state(place.state, place.outside.path(), data, size, raw);
  if (!std::filesystem::exists(place.state)) return;  // HDF5 would not write such a file
  detail::checkpoint_tuning.piece_bytes = built.piece_bytes;
  place.outside.opened();
  const ssize_t before = open_identifiers();
  read_state(place.state, built.names);
  // Damaged metadata makes HDF5 1.10 itself lose some.
  require(raw || open_identifiers() == before, "a reader leaves identifiers behind");
  require(!place.outside.opened(), "a reader opens a file that a link in the checkpoint names");
}

}  // namespace kokomoe::fuzz
