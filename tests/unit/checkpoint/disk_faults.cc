#undef _FORTIFY_SOURCE  // its inline wrappers have the names that are defined here
#include "disk_faults.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <new>
#include <set>

namespace rankwise::testing {
namespace {

namespace fs = std::filesystem;

struct Watch {
  std::string root;
  DiskPlan plan;
  Journal* journal;
};
Watch* g_watch = nullptr;

bool is_below(std::string_view path, std::string_view root) {
  return path.starts_with(root) && (path.size() == root.size() || path[root.size()] == '/');
}

std::string path_of(int fd) {
  std::array<char, 512> path{};
  const std::string link = "/proc/self/fd/" + std::to_string(fd);
  const long length = ::syscall(SYS_readlink, link.c_str(), path.data(), path.size());
  return length > 0 ? std::string(path.data(), static_cast<size_t>(length)) : std::string();
}

std::string path_at(int directory_fd, const char* name) {
  if (directory_fd == AT_FDCWD || name[0] == '/') return name;
  return path_of(directory_fd) + "/" + name;
}

DiskEvent& note(DiskCall call, const std::string& path, const std::string& renamed_to) {
  Journal& journal = *g_watch->journal;
  if (journal.num_events == Journal::kMaxEvents || path.size() > 255 || renamed_to.size() > 255) {
    std::fputs("disk_faults: the journal is too small for this test\n", stderr);
    ::_exit(1);
  }
  DiskEvent& event = journal.events[static_cast<size_t>(journal.num_events++)];
  event = {.call = call, .done = false, .path = {}, .renamed_to = {}};
  path.copy(event.path.data(), path.size());
  renamed_to.copy(event.renamed_to.data(), renamed_to.size());
  return event;
}

bool must_fail(int operation) {
  const DiskPlan& plan = g_watch->plan;
  switch (plan.fault) {
    case DiskPlan::Fault::kFailOnce:
      return operation == plan.at;
    case DiskPlan::Fault::kFailForever:
      return operation >= plan.at;
    case DiskPlan::Fault::kNone:
    case DiskPlan::Fault::kCrashAfter:
    case DiskPlan::Fault::kHalfWrites:
      return false;
  }
  return false;
}

// `real` makes the system call and returns what it returns.
template <typename Real>
long operation(DiskCall call, const std::string& path, const std::string& renamed_to, Real real) {
  if (g_watch == nullptr || !is_below(path, g_watch->root)) return real();
  DiskEvent& event = note(call, path, renamed_to);
  const bool fail = must_fail(g_watch->journal->num_events);
  if (fail && call == DiskCall::kClose) real();  // a close that fails has closed all the same
  if (fail) errno = g_watch->plan.error;
  const long result = fail ? -1 : real();
  event.done = result >= 0;
  const DiskPlan& plan = g_watch->plan;
  if (plan.fault == DiskPlan::Fault::kCrashAfter && plan.at == g_watch->journal->num_events) ::_exit(kCrashExitCode);
  return result;
}

long open_file(int directory_fd, const char* name, int flags, unsigned mode) {
  const auto real = [&] { return ::syscall(SYS_openat, directory_fd, name, flags, mode); };
  struct stat status {};
  const bool creates = (flags & O_CREAT) != 0 && ::fstatat(directory_fd, name, &status, 0) != 0;
  return creates ? operation(DiskCall::kCreate, path_at(directory_fd, name), "", real) : real();
}

long rename_file(int from_fd, const char* from, int to_fd, const char* to, unsigned flags) {
  return operation(DiskCall::kRename, path_at(from_fd, from), path_at(to_fd, to),
                   [&] { return ::syscall(SYS_renameat2, from_fd, from, to_fd, to, flags); });
}

long remove_file(int directory_fd, const char* name, int flags) {
  return operation(DiskCall::kRemove, path_at(directory_fd, name), "",
                   [&] { return ::syscall(SYS_unlinkat, directory_fd, name, flags); });
}

long make_directory(int directory_fd, const char* name, mode_t mode) {
  return operation(DiskCall::kMakeDirectory, path_at(directory_fd, name), "",
                   [&] { return ::syscall(SYS_mkdirat, directory_fd, name, mode); });
}

// What of the journal is not on the disk for good.
class Unsynced {
 public:
  void apply(const DiskEvent& event) {
    const std::string path = event.path.data();
    switch (event.call) {
      case DiskCall::kWrite:
        files_.insert(path);
        break;
      case DiskCall::kSync:
        files_.erase(path);
        std::erase_if(names_, [&](const Name& name) { return fs::path(name.path).parent_path() == path; });
        break;
      case DiskCall::kCreate:
      case DiskCall::kMakeDirectory:
        names_.push_back({path, ""});
        break;
      case DiskCall::kRename:
        move(path, event.renamed_to.data());
        names_.push_back({event.renamed_to.data(), path});
        break;
      case DiskCall::kRemove:
        files_.erase(path);
        std::erase_if(names_, [&](const Name& name) { return name.path == path; });
        break;
      case DiskCall::kClose:
        break;
    }
  }

  void lose_data() const {
    for (const std::string& file : files_) fs::resize_file(file, 0);
  }

  void lose_names() const {
    for (auto name = names_.rbegin(); name != names_.rend(); ++name) {
      if (name->was.empty()) {
        fs::remove_all(name->path);
      } else {
        fs::rename(name->path, name->was);
      }
    }
  }

 private:
  struct Name {
    std::string path;
    std::string was;  // before a rename; empty: it did not exist
  };

  void move(const std::string& from, const std::string& to) {
    const auto moved = [&](const std::string& path) {
      return is_below(path, from) ? to + path.substr(from.size()) : path;
    };
    std::set<std::string> files;
    for (const std::string& file : files_) files.insert(moved(file));
    files_ = std::move(files);
    for (Name& name : names_) name.path = moved(name.path);
  }

  std::set<std::string> files_;
  std::vector<Name> names_;
};

}  // namespace

void* map_shared(size_t bytes) {
  void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  return memory;
}

void unmap_shared(void* memory, size_t bytes) noexcept { ::munmap(memory, bytes); }

WatchedDisk::WatchedDisk(const fs::path& root, const DiskPlan& plan, Journal& journal) {
  journal.num_events = 0;
  g_watch = new Watch{root.string(), plan, &journal};
}

WatchedDisk::~WatchedDisk() {
  delete g_watch;
  g_watch = nullptr;
}

void cut_power(const Journal& journal, Lost lost) {
  Unsynced unsynced;
  for (int k = 0; k < journal.num_events; ++k) {
    const DiskEvent& event = journal.events[static_cast<size_t>(k)];
    if (event.done) unsynced.apply(event);
  }
  if (lost != Lost::kNames) unsynced.lose_data();
  if (lost != Lost::kData) unsynced.lose_names();
}

// The calls themselves, with libc's signatures.
extern "C" {

int open(const char* name, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const unsigned mode = va_arg(arguments, unsigned);
  va_end(arguments);
  return static_cast<int>(open_file(AT_FDCWD, name, flags, mode));
}

int open64(const char* name, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const unsigned mode = va_arg(arguments, unsigned);
  va_end(arguments);
  return static_cast<int>(open_file(AT_FDCWD, name, flags, mode));
}

ssize_t write(int fd, const void* bytes, size_t count) {
  return operation(DiskCall::kWrite, path_of(fd), "", [&] {
    const bool halve = g_watch != nullptr && g_watch->plan.fault == DiskPlan::Fault::kHalfWrites;
    const size_t accepted = halve ? (count + 1) / 2 : count;
    return ::syscall(SYS_write, fd, bytes, accepted);
  });
}

int fsync(int fd) {
  return static_cast<int>(operation(DiskCall::kSync, path_of(fd), "", [&] { return ::syscall(SYS_fsync, fd); }));
}

int close(int fd) {
  return static_cast<int>(operation(DiskCall::kClose, path_of(fd), "", [&] { return ::syscall(SYS_close, fd); }));
}

int rename(const char* from, const char* to) noexcept {
  return static_cast<int>(rename_file(AT_FDCWD, from, AT_FDCWD, to, 0));
}

int renameat2(int from_fd, const char* from, int to_fd, const char* to, unsigned flags) noexcept {
  return static_cast<int>(rename_file(from_fd, from, to_fd, to, flags));
}

int mkdir(const char* name, mode_t mode) noexcept { return static_cast<int>(make_directory(AT_FDCWD, name, mode)); }

int unlink(const char* name) noexcept { return static_cast<int>(remove_file(AT_FDCWD, name, 0)); }

int unlinkat(int directory_fd, const char* name, int flags) noexcept {
  return static_cast<int>(remove_file(directory_fd, name, flags));
}

int rmdir(const char* name) noexcept { return static_cast<int>(remove_file(AT_FDCWD, name, AT_REMOVEDIR)); }

}  // extern "C"

}  // namespace rankwise::testing
