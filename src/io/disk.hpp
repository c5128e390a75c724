// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <string>

/// Steps of a save, each announced to detail::checkpoint_hook first. All throw Error that names the
/// path.
namespace kokomoe::detail {

/// Calls the hook when there is one.
void announce(const char* operation, const std::string& path);

/// Writes a whole file and syncs it.
void write_file(const std::string& path, const std::string& text);
void sync_file(const std::string& path);
/// Makes renames inside `path` last.
void sync_folder(const std::string& path);
void rename_path(const std::string& from, const std::string& to);
/// Replaces a file's text so that readers see the old or the new, whatever happens.
void replace_file(const std::string& path, const std::string& text);
/// Removes a folder: renamed first, so that half of it never passes for a checkpoint.
void remove_folder(const std::string& path);

}  // namespace kokomoe::detail
