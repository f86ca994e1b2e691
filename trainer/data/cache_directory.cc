#include "trainer/data/cache_directory.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <system_error>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"

namespace rankwise {

void make_directories(const std::filesystem::path& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (!error) return;
  const bool is_denied = error == std::errc::permission_denied || error == std::errc::operation_not_permitted;
  throw IoError(fmt::format("data.cache_dir: cannot create {}: {}", path.string(), error.message()),
                is_denied ? ExitCode::kNoPermission : ExitCode::kCannotWrite);
}

UniqueFd lock_file(const std::filesystem::path& path) {
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666));
  if (!fd) throw_errno("create " + path.string(), errno);
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) == 0) return fd;
  if (errno == EWOULDBLOCK) log_info("data: another process prepares the same data set; waiting for {}", path.string());
  while (::flock(fd.get(), LOCK_EX) != 0) {
    if (errno != EINTR)
      throw_errno("lock " + path.string() + " (set data.cache_dir to a file system with locks)", errno);
  }
  return fd;
}

TemporaryFile::TemporaryFile(std::filesystem::path path) : path_(std::move(path)) {}

TemporaryFile::~TemporaryFile() {
  if (!path_.empty()) ::unlink(path_.c_str());
}

void TemporaryFile::publish_as(const std::filesystem::path& name) {
  if (::rename(path_.c_str(), name.c_str()) != 0) throw_errno("rename to " + name.string(), errno);
  path_.clear();
  fsync_directory(name.parent_path());
}

}  // namespace rankwise
