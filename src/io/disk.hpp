// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstdint>
#include <string>

/// Steps of a save, each announced to detail::checkpoint_hook first. All throw Error that names the
/// path.
namespace kokomoe::detail {

/// Calls the hook when there is one.
void announce(const char* operation, const std::string& path);

/// Writes a whole file and syncs it.
void write_file(const std::string& path, const std::string& text);
void sync_file(const std::string& path);
/// Takes the disk's room for all of a file that has its size but holes. Where the file
/// system cannot, sees that there is as much.
void reserve_file(const std::string& path);
/// Makes renames inside `path` last.
void sync_folder(const std::string& path);
void rename_path(const std::string& from, const std::string& to);
/// Fails where this process may not write files of that size.
void require_file_size(const std::string& path, std::uint64_t bytes);

/// A file without a name, in memory, whose holes take none. Not valid where the system has none.
class MemoryFile {
 public:
  MemoryFile();
  ~MemoryFile();
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  bool valid() const { return file_ >= 0; }
  /// Opens it while it lives.
  std::string path() const;
  /// Makes file `path` of the same bytes, for which all room is taken first, that of holes too.
  void copy_to(const std::string& path) const;

 private:
  int file_ = -1;
};

/// Replaces a file's text so that readers see the old or the new, whatever happens.
void replace_file(const std::string& path, const std::string& text);
/// Removes a folder: renamed first, so that half of it never passes for a checkpoint.
void remove_folder(const std::string& path);

}  // namespace kokomoe::detail
