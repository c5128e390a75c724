// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause

// Feeds files to the fuzz targets, without libFuzzer: fuzz_corpus FOLDER, with folders deck,
// manifest and state in it. What was found once is so tested by every compiler.
#include "fuzz/targets.hpp"
#include "support/temporary_folder.hpp"

#include <algorithm>
#include <vector>

namespace {

using Target = void (*)(const std::uint8_t*, std::size_t);

int feed(const std::string& folder, Target target) {
  std::vector<std::string> paths;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    if (entry.is_regular_file()) paths.push_back(entry.path().string());
  std::sort(paths.begin(), paths.end());
  for (const std::string& path : paths) {
    // Said beforehand: a target that fails ends the program. Flushed, as an abort does not.
    std::printf("%s\n", path.c_str());
    std::fflush(stdout);
    const std::string text = kokomoe::test::read_text(path);
    target(reinterpret_cast<const std::uint8_t*>(text.data()), text.size());
  }
  return static_cast<int>(paths.size());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: fuzz_corpus FOLDER\n");
    return 2;
  }
  const std::string folder = argv[1];
  for (const auto& [name, target] : {std::pair<const char*, Target>("deck", kokomoe::fuzz::deck),
                                     {"manifest", kokomoe::fuzz::manifest},
                                     {"state", kokomoe::fuzz::state}}) {
    const int files = feed(folder + "/" + name, target);
    std::printf("%s: %d files\n", name, files);
    if (files == 0) return 1;
  }
  return 0;
}
