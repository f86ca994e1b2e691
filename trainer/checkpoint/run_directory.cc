#include "trainer/checkpoint/run_directory.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>

#include <fmt/format.h>

#include "base/error.h"
#include "base/file.h"
#include "base/host_name.h"
#include "base/log.h"

namespace rankwise {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kLockName = "LOCK";
constexpr std::string_view kCheckpointPrefix = "checkpoint-";
constexpr std::string_view kWorkPrefix = "tmp.";

// Canonical decimal only, so that two names never mean the same step.
std::optional<uint64_t> parse_decimal(std::string_view text) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || std::to_string(value) != text) return std::nullopt;
  return value;
}

bool is_work_name(std::string_view name) {
  if (!name.starts_with(kWorkPrefix)) return false;
  name.remove_prefix(kWorkPrefix.size());
  const size_t dot = name.find('.');
  return dot != std::string_view::npos && parse_decimal(name.substr(0, dot)) && parse_decimal(name.substr(dot + 1));
}

// A new directory survives a power cut only when the directory that lists it is synced. Where it cannot be made,
// probe_writable says why.
void create_durably(const fs::path& directory) {
  std::error_code error;
  if (directory == directory.parent_path() || fs::exists(directory, error)) return;
  create_durably(directory.parent_path());
  if (fs::create_directory(directory, error)) fsync_directory(directory.parent_path());
}

// The names in a directory, sorted; empty if it is absent.
std::vector<std::string> names_in(const fs::path& directory) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end; entry.increment(error)) {
    names.push_back(entry->path().filename().string());
  }
  if (error && error != std::errc::no_such_file_or_directory) {
    throw_errno(fmt::format("list {}", directory.string()), error.value());
  }
  std::ranges::sort(names);
  return names;
}

std::string read_holder(int fd) {
  std::array<char, 512> text{};
  const ssize_t length = ::pread(fd, text.data(), text.size(), 0);
  return length > 0 ? std::string(text.data(), static_cast<size_t>(length)) : "another process";
}

void write_holder(int fd, const fs::path& path, const std::string& run_id) {
  const std::string holder = fmt::format("pid {} on {}, run {}", ::getpid(), host_name(), run_id);
  const bool written =
      ::ftruncate(fd, 0) == 0 && ::pwrite(fd, holder.data(), holder.size(), 0) == static_cast<ssize_t>(holder.size());
  if (!written) throw_errno(fmt::format("write {}", path.string()), errno);
}

UniqueFd take_lock(const fs::path& directory, const std::string& run_id) {
  const fs::path path = directory / kLockName;
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644));
  if (!fd) throw_errno(fmt::format("open {}", path.string()), errno);
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) throw_errno(fmt::format("lock {}", path.string()), errno);
    throw IoError(fmt::format("{}: already in use by {}. Wait for that job to end, or choose another run.output_dir.",
                              directory.string(), read_holder(fd.get())),
                  ExitCode::kCannotWrite);
  }
  write_holder(fd.get(), path, run_id);
  return fd;
}

}  // namespace

RunDirectory::RunDirectory(const fs::path& path, std::string run_id)
    : path_(fs::absolute(path).lexically_normal()), run_id_(std::move(run_id)) {
  create_durably(path_);
  probe_writable(path_);
  lock_ = take_lock(path_, run_id_);
  remove_leftovers();
}

RunDirectory::~RunDirectory() {
  // The file stays: removing it would let a third job lock a new file while a second one waits on the old one.
  if (lock_ && ::ftruncate(lock_.get(), 0) != 0) log_warning("{}: cannot clear the lock file", path_.string());
}

fs::path RunDirectory::work_path(uint64_t step) const {
  return path_ / fmt::format("{}{}.{}", kWorkPrefix, step, ::getpid());
}

void RunDirectory::remove_leftovers() const {
  for (const std::string& name : names_in(path_)) {
    if (!is_work_name(name)) continue;
    std::error_code error;
    fs::remove_all(path_ / name, error);
    if (error) log_warning("cannot remove {}: {}", (path_ / name).string(), error.message());
  }
}

fs::path checkpoint_path(const fs::path& run_directory, uint64_t step) {
  return run_directory / fmt::format("{}{}", kCheckpointPrefix, step);
}

std::optional<uint64_t> step_of_checkpoint_name(std::string_view name) {
  if (!name.starts_with(kCheckpointPrefix)) return std::nullopt;
  return parse_decimal(name.substr(kCheckpointPrefix.size()));
}

std::vector<uint64_t> list_checkpoint_steps(const fs::path& run_directory) {
  std::vector<uint64_t> steps;
  for (const std::string& name : names_in(run_directory)) {
    std::error_code error;
    const auto step = step_of_checkpoint_name(name);
    if (step && fs::is_directory(run_directory / name, error)) steps.push_back(*step);
  }
  std::ranges::sort(steps);
  return steps;
}

}  // namespace rankwise
