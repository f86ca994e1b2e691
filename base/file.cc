#include "base/file.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstdio>

#include "base/check.h"
#include "base/host_name.h"

namespace rankwise {
namespace fs = std::filesystem;
namespace {

// A FIFO without a writer must not block the open; on regular files the flag does nothing.
constexpr int kInputFlags = O_RDONLY | O_CLOEXEC | O_NONBLOCK;
constexpr mode_t kNewFileMode = 0666;  // less the umask

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

fs::path parent_of(const fs::path& path) { return path.has_parent_path() ? path.parent_path() : fs::path("."); }

InputFile check_input(int raw_fd, const fs::path& shown_as) {
  const int open_errno = errno;
  UniqueFd fd(raw_fd);
  if (!fd) {
    RW_CHECK(open_errno != ENOENT && open_errno != ENOTDIR, NoInputError, "{}: no such file", shown_as.native());
    throw_errno("open " + shown_as.native(), open_errno);
  }
  struct stat status {};
  if (::fstat(fd.get(), &status) != 0) throw_errno("stat " + shown_as.native(), errno);
  RW_CHECK(S_ISREG(status.st_mode), DataError, "{}: not a regular file; give the path of a file on disk",
           shown_as.native());
  return {std::move(fd), static_cast<uint64_t>(status.st_size)};
}

void sync_and_close(UniqueFd fd, const fs::path& path) {
  // A failed fsync is never repeated: the kernel may have dropped the dirty pages, and a second call would succeed.
  if (::fsync(fd.get()) != 0) throw_errno("fsync " + path.native(), errno);
  if (::close(fd.release()) != 0) throw_errno("close " + path.native(), errno);
}

// Removes what a failed write has left, unless keep() was reached.
class RemoveUnlessKept {
 public:
  explicit RemoveUnlessKept(const fs::path& path) : path_(path) {}
  RemoveUnlessKept(const RemoveUnlessKept&) = delete;
  RemoveUnlessKept& operator=(const RemoveUnlessKept&) = delete;
  ~RemoveUnlessKept() {
    if (!kept_) ::unlink(path_.c_str());
  }
  void keep() noexcept { kept_ = true; }

 private:
  const fs::path& path_;
  bool kept_ = false;
};

}  // namespace

InputFile open_input(const fs::path& path) { return check_input(::open(path.c_str(), kInputFlags), path); }

InputFile open_input_at(int directory_fd, const std::string& name, const fs::path& shown_as) {
  return check_input(::openat(directory_fd, name.c_str(), kInputFlags), shown_as);
}

void read_exactly_at(int fd, uint64_t offset, std::span<std::byte> out, const fs::path& shown_as) {
  while (!out.empty()) {
    const ssize_t got = ::pread(fd, out.data(), out.size(), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw_errno("read " + shown_as.native(), errno);
    RW_CHECK(got > 0, IoError, "{}: ends at byte {}, {} bytes early; was it changed while being read?",
             shown_as.native(), offset, out.size());
    out = out.subspan(static_cast<size_t>(got));
    offset += static_cast<uint64_t>(got);
  }
}

void write_all(int fd, std::span<const std::byte> bytes, const fs::path& shown_as) {
  while (!bytes.empty()) {
    const ssize_t put = ::write(fd, bytes.data(), bytes.size());
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) throw_errno("write " + shown_as.native(), errno);
    bytes = bytes.subspan(static_cast<size_t>(put));
  }
}

std::string read_file(const fs::path& path, uint64_t limit_bytes) {
  const InputFile file = open_input(path);
  RW_CHECK(file.size_bytes <= limit_bytes, DataError, "{}: {} bytes, at most {} are read", path.native(),
           file.size_bytes, limit_bytes);
  std::string content(file.size_bytes, '\0');
  read_exactly_at(file.fd.get(), 0, std::as_writable_bytes(std::span(content)), path);
  return content;
}

void write_new_file(const fs::path& path, std::span<const std::span<const std::byte>> pieces) {
  UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, kNewFileMode));
  if (!fd) {
    const int error = errno;
    if (error == EEXIST) {
      throw IoError(path.native() + ": exists already and is never overwritten", ExitCode::kCannotWrite);
    }
    throw_errno("create " + path.native(), error);
  }
  RemoveUnlessKept guard(path);
  for (const auto piece : pieces) write_all(fd.get(), piece, path);
  sync_and_close(std::move(fd), path);
  guard.keep();
}

void write_new_file(const fs::path& path, std::string_view content) {
  const std::span<const std::byte> pieces[] = {bytes_of(content)};
  write_new_file(path, pieces);
}

void replace_file(const fs::path& path, std::string_view content) {
  fs::path temporary = path;
  temporary += fmt::format(".tmp.{}.{}", host_name(), ::getpid());  // other hosts may share the directory
  ::unlink(temporary.c_str());                                      // of a dead process that had our id
  write_new_file(temporary, content);
  RemoveUnlessKept guard(temporary);
  if (::rename(temporary.c_str(), path.c_str()) != 0) throw_errno("rename to " + path.native(), errno);
  guard.keep();
  fsync_directory(parent_of(path));
}

void fsync_directory(const fs::path& directory) {
  UniqueFd fd(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd) throw_errno("open directory " + directory.native(), errno);
  sync_and_close(std::move(fd), directory);
}

void publish_directory(const fs::path& from, const fs::path& to) {
  if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE) != 0) {
    const int error = errno;
    if (error == EEXIST || error == ENOTEMPTY) {
      throw IoError(to.native() + ": exists already and is never overwritten", ExitCode::kCannotWrite);
    }
    // NFS and some FUSE systems know no flags. Their plain rename still refuses a directory that is not empty.
    if (error != EINVAL && error != ENOSYS)
      throw_errno(fmt::format("rename {} to {}", from.native(), to.native()), error);
    RW_CHECK(!fs::exists(fs::symlink_status(to)), IoError, "{}: exists already and is never overwritten", to.native());
    if (::rename(from.c_str(), to.c_str()) != 0) throw_errno("rename to " + to.native(), errno);
  }
  fsync_directory(parent_of(to));
}

void probe_writable(const fs::path& directory) {
  try {
    std::error_code error;
    fs::create_directories(directory, error);
    if (error) throw_errno("create directory " + directory.native(), error.value());
    std::string probe = (directory / ".rankwise-probe-XXXXXX").native();
    UniqueFd fd(::mkostemp(probe.data(), O_CLOEXEC));
    if (!fd) throw_errno("create a file in " + directory.native(), errno);
    const fs::path shown_as = probe;
    RemoveUnlessKept guard(shown_as);
    write_all(fd.get(), bytes_of("probe\n"), shown_as);
    sync_and_close(std::move(fd), shown_as);
  } catch (const Error& e) {
    if (e.code() == ExitCode::kNoPermission) throw;
    throw IoError(e.what(), ExitCode::kCannotWrite);
  }
}

}  // namespace rankwise
