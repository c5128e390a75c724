// SPDX-FileCopyrightText: Kokomoe authors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "support/communicator.hpp"
#include "support/temporary_folder.hpp"

#include <memory>
#include <string>

namespace kokomoe::test {

/// One folder for all ranks, the root's.
class SharedFolder {
 public:
  SharedFolder() {
    const Communicator& ranks = communicator();
    if (ranks.is_root()) folder_ = std::make_unique<TemporaryFolder>();
    path_ = ranks.broadcast(folder_ ? folder_->path() : "");
  }
  ~SharedFolder() { communicator().barrier(); }
  SharedFolder(const SharedFolder&) = delete;
  SharedFolder& operator=(const SharedFolder&) = delete;
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::unique_ptr<TemporaryFolder> folder_;
  std::string path_;
};

}  // namespace kokomoe::test
