// The directory of prepared data sets, which runs and hosts may share.
#pragma once

#include <filesystem>

#include "base/unique_handle.h"

namespace rankwise {

// data.cache_dir, with its parents. Throws IoError with code 73, or 77 without permission.
void make_directories(const std::filesystem::path& path);

// An exclusive lock on `path`, which is created if absent and stays. Waits, with a message, for a process that holds
// it. Released when the handle goes out of scope, and by the kernel when the process dies.
UniqueFd lock_file(const std::filesystem::path& path);

// A name for a file in the making: removed at the end of its life unless it is published.
class TemporaryFile {
 public:
  explicit TemporaryFile(std::filesystem::path path);
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  ~TemporaryFile();

  const std::filesystem::path& path() const noexcept { return path_; }
  // Gives the finished file its name, over what may be there, and fsyncs the directory.
  void publish_as(const std::filesystem::path& name);

 private:
  std::filesystem::path path_;
};

}  // namespace rankwise
