// A disk that fails on command, for the code under test as it ships: this file's .cc defines open, write, fsync, close,
// rename, mkdir, unlink and their siblings, and the linker prefers those of the executable to libc's. While a
// WatchedDisk lives, each such call below its root is counted, noted in a journal, and failed or followed by a crash as
// planned. At other times, and elsewhere, the calls go straight through. Reads are not touched. One thread.
#pragma once

#include <array>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace rankwise::testing {

enum class DiskCall : int { kCreate, kWrite, kSync, kClose, kMakeDirectory, kRename, kRemove };

struct DiskEvent {
  DiskCall call;
  bool done;  // false: it was made to fail
  std::array<char, 256> path;
  std::array<char, 256> renamed_to;
};

// Plain memory, so that it can be shared with a child process that is about to die.
struct Journal {
  static constexpr int kMaxEvents = 2000;
  int num_events;  // operation k, counted from 1, is events[k - 1]
  int acknowledged_step;
  std::array<DiskEvent, kMaxEvents> events;
};

void* map_shared(size_t bytes);
void unmap_shared(void* memory, size_t bytes) noexcept;

// A zeroed T that parent and child see alike.
template <typename T>
class Shared {
 public:
  Shared() : value_(static_cast<T*>(map_shared(sizeof(T)))) {}
  Shared(const Shared&) = delete;
  Shared& operator=(const Shared&) = delete;
  ~Shared() { unmap_shared(value_, sizeof(T)); }
  T& operator*() const noexcept { return *value_; }
  T* operator->() const noexcept { return value_; }

 private:
  T* value_;
};

struct DiskPlan {
  enum class Fault {
    kNone,
    kCrashAfter,   // _exit right after operation `at`
    kFailOnce,     // operation `at` fails with `error`
    kFailForever,  // it and all later ones
    kHalfWrites,   // every write takes half of its bytes
  };
  Fault fault = Fault::kNone;
  int at = 0;
  int error = 0;
};
inline constexpr int kCrashExitCode = 99;

class WatchedDisk {
 public:
  WatchedDisk(const std::filesystem::path& root, const DiskPlan& plan, Journal& journal);
  WatchedDisk(const WatchedDisk&) = delete;
  WatchedDisk& operator=(const WatchedDisk&) = delete;
  ~WatchedDisk();
};

enum class Lost { kData, kNames, kBoth };

// Does to the directory tree what a power cut may do after the journal's last operation: files written and not synced
// since become empty (kData); names made or moved in a directory that was not synced since are undone (kNames).
void cut_power(const Journal& journal, Lost lost);

}  // namespace rankwise::testing
