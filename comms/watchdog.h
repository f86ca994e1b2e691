// Ends a job that stopped making progress, and says who stopped it. Every rank writes what it does into a slot of
// memory that the ranks of a host share; the rank whose patience ends first reads all slots, names those who keep the
// others waiting, and leaves with code 71, upon which the launcher ends the rest.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>

#include "comms/communicator.h"

namespace rankwise {

class World;

// What one rank does now. Plain atomics in shared memory: readable while its owner is stopped.
struct ProgressSlot {
  std::atomic<int64_t> step{0};
  std::atomic<uint64_t> beats{0};       // grows with each sign of life
  std::atomic<uint64_t> operations{0};  // collective operations finished
  std::atomic<uint32_t> waiting{0};     // 1 while inside a collective operation
  std::atomic<int32_t> rank{0};
  std::atomic<int32_t> pid{0};
  std::atomic<int64_t> watched_at_ms{0};  // steady clock, by the watching thread, once it runs: old where it cannot
  char phase[32] = {};                    // both may be torn when read, never unterminated
  char operation[32] = {};                // the one waited in
};

class Watchdog final : public CommObserver {
 public:
  // Collective over `world` (a host's ranks share memory; all hosts' names are exchanged). Not started: see start().
  explicit Watchdog(World& world);
  ~Watchdog() override;
  void start(std::chrono::milliseconds timeout);  // from now on silence for this long ends the job
  void stop() noexcept;

  void beat(std::string_view phase, int64_t step) noexcept;  // the trainer's sign of life
  void wait_begins(std::string_view operation) noexcept override;
  void wait_ends() noexcept override;

  // The sentence that names who stopped, from the slots as they are now, by the strongest sign that there is: a process
  // that does not run (SIGSTOP, a debugger); else a rank that is in no collective operation; else, on one host, a rank
  // that is behind. Where all ranks of one host of several wait, it names the other hosts.
  std::string diagnosis() const;

 private:
  void watch();
  bool is_frozen(const ProgressSlot& slot) const noexcept;
  ProgressSlot& mine() const noexcept;

  struct Shared;
  World& world_;
  std::unique_ptr<Shared> shared_;
  std::string host_, other_hosts_;
  std::chrono::milliseconds timeout_{};  // zero: not started
  std::mutex mutex_;
  std::condition_variable stopped_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace rankwise
