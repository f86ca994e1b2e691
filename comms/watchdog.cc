#include "comms/watchdog.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <new>
#include <vector>

#include "base/error.h"
#include "comms/world.h"

namespace rankwise {

struct Watchdog::Shared {
  std::unique_ptr<ProgressSlot> own;  // where no memory is shared: a world of one process
  std::vector<ProgressSlot*> slots;
  size_t local_rank = 0;
};

namespace {

constexpr size_t kSlotBytes = 128;
static_assert(sizeof(ProgressSlot) <= kSlotBytes);

std::vector<ProgressSlot*> share_slots(World& world) {
  std::vector<ProgressSlot*> slots;
  for (void* memory : world.share_on_host(kSlotBytes)) slots.push_back(static_cast<ProgressSlot*>(memory));
  return slots;
}

void write_text(char (&field)[32], std::string_view text) noexcept {
  const size_t length = std::min(text.size(), sizeof(field) - 1);
  std::memcpy(field, text.data(), length);
  std::memset(field + length, 0, sizeof(field) - length);
}

std::string describe(const ProgressSlot& slot) {
  const bool waits = slot.waiting != 0;
  char doing[33] = {};
  std::memcpy(doing, waits ? slot.operation : slot.phase, 32);
  return fmt::format("rank {} ({} {}, step {})", slot.rank.load(), waits ? "waiting in" : "busy in", doing,
                     slot.step.load());
}

}  // namespace

Watchdog::Watchdog(World& world) : world_(world), shared_(std::make_unique<Shared>()), host_(world.host()) {
  shared_->slots = share_slots(world);
  shared_->local_rank = static_cast<size_t>(world.local_rank());
  if (shared_->slots.empty()) {
    shared_->own = std::make_unique<ProgressSlot>();
    shared_->slots = {shared_->own.get()};
  }
  new (&mine()) ProgressSlot;
  mine().rank = world.rank();
}

Watchdog::~Watchdog() { stop(); }

ProgressSlot& Watchdog::mine() const noexcept { return *shared_->slots[shared_->local_rank]; }

void Watchdog::beat(std::string_view phase, int64_t step) noexcept {
  write_text(mine().phase, phase);
  mine().step = step;
  ++mine().beats;
}

void Watchdog::wait_begins(std::string_view operation) noexcept {
  write_text(mine().operation, operation);
  mine().waiting = 1;
  ++mine().beats;
}

void Watchdog::wait_ends() noexcept {
  mine().waiting = 0;
  ++mine().operations;
  ++mine().beats;
}

std::string Watchdog::diagnosis() const {
  uint64_t most = 0;
  for (const auto* slot : shared_->slots) most = std::max(most, slot->operations.load());
  std::string culprits, others;
  for (const auto* slot : shared_->slots) {
    const bool behind = slot->waiting == 0 || slot->operations < most;
    auto& list = behind ? culprits : others;
    list += (list.empty() ? "" : ", ") + describe(*slot);
  }
  if (culprits.empty()) culprits = "none on this host: look at the other hosts or the network";
  return fmt::format("stopped: {}{}{}", culprits, others.empty() ? "" : "; kept waiting: ", others);
}

void Watchdog::start(std::chrono::milliseconds timeout) {
  world_.observe(this);
  thread_ = std::thread([this, timeout] { watch(timeout); });
}

void Watchdog::stop() noexcept {
  world_.observe(nullptr);
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  stopped_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void Watchdog::watch(std::chrono::milliseconds timeout) {
  using Clock = std::chrono::steady_clock;
  uint64_t last_beats = mine().beats;
  auto last_change = Clock::now();
  std::unique_lock lock(mutex_);
  while (!stopped_.wait_for(lock, std::min(timeout / 10, std::chrono::milliseconds(1000)), [this] { return stop_; })) {
    const uint64_t beats = mine().beats;
    if (beats != std::exchange(last_beats, beats)) last_change = Clock::now();
    if (Clock::now() - last_change < timeout) continue;
    std::fprintf(stderr, "rankwise: no progress on %s for %.1f s; %s\n", host_.c_str(),
                 std::chrono::duration<double>(timeout).count(), diagnosis().c_str());
    std::fflush(stderr);
    ::_exit(static_cast<int>(ExitCode::kCommunication));
  }
}

}  // namespace rankwise
