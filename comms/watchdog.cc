#include "comms/watchdog.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <functional>
#include <new>
#include <set>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "comms/world.h"

namespace rankwise {

struct Watchdog::Shared {
  std::unique_ptr<ProgressSlot> own;  // where no memory is shared: a world of one process
  std::vector<ProgressSlot*> slots;
  size_t local_rank = 0;
};

namespace {

using Clock = std::chrono::steady_clock;  // one clock for all processes of a host

int64_t now_ms() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now().time_since_epoch()).count();
}

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

// Whether the kernel holds it back: SIGSTOP or a debugger.
bool is_held(pid_t pid) {
  std::ifstream file(fmt::format("/proc/{}/stat", pid));
  std::string stat;
  std::getline(file, stat);
  const size_t name_end = stat.rfind(')');  // "pid (name) state ..."
  const char state = name_end == std::string::npos || name_end + 2 >= stat.size() ? '\0' : stat[name_end + 2];
  return state == 'T' || state == 't';
}

std::string names_but(const std::vector<std::string>& hosts, const std::string& mine) {
  constexpr size_t kMostNames = 16;
  std::set<std::string> names(hosts.begin(), hosts.end());
  names.erase(mine);
  const size_t shown = std::min(names.size(), kMostNames);
  std::string text =
      fmt::format("{}", fmt::join(names.begin(), std::next(names.begin(), static_cast<long>(shown)), ", "));
  return shown == names.size() ? text : text + fmt::format(" and {} more", names.size() - shown);
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
  mine().pid = ::getpid();
  write_text(mine().phase, "start");
  other_hosts_ = names_but(world.gather_strings(host_), host_);  // and nobody reads a slot before all are written
}

Watchdog::~Watchdog() { stop(); }

ProgressSlot& Watchdog::mine() const noexcept { return *shared_->slots[shared_->local_rank]; }

void Watchdog::beat(std::string_view phase, int64_t step) noexcept {
  write_text(mine().phase, phase);
  mine().step = step;
  ++mine().beats;
  world_.note_doing(phase, step);
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

bool Watchdog::is_frozen(const ProgressSlot& slot) const noexcept {
  return is_held(slot.pid) || (slot.watched_at_ms != 0 && now_ms() - slot.watched_at_ms > timeout_.count() / 2);
}

std::string Watchdog::diagnosis() const {
  const auto& slots = shared_->slots;
  uint64_t most = 0;
  for (const auto* slot : slots) most = std::max(most, slot->operations.load());
  // In one ring operation some ranks may be through while others still wait, so being behind is the weakest sign, and
  // none where ranks of other hosts take part that are not seen from here.
  const std::function<bool(const ProgressSlot*)> signs[] = {
      [this](const auto* slot) { return is_frozen(*slot); },
      [](const auto* slot) { return slot->waiting == 0; },
      [this, most](const auto* slot) { return other_hosts_.empty() && slot->operations < most; },
  };
  const auto sign =
      std::ranges::find_if(signs, [&](const auto& seen_in) { return std::ranges::any_of(slots, seen_in); });
  std::string culprits, others;
  for (const auto* slot : slots) {
    const bool keeps_others_waiting = sign != std::end(signs) && (*sign)(slot);
    auto& list = keeps_others_waiting ? culprits : others;
    list += (list.empty() ? "" : ", ") + describe(*slot);
  }
  if (sign == std::begin(signs)) culprits += ", whose process does not run";
  if (culprits.empty())
    culprits =
        fmt::format("none on this host: look at {}the network", other_hosts_.empty() ? "" : other_hosts_ + " and ");
  return fmt::format("stopped: {}{}{}", culprits, others.empty() ? "" : "; kept waiting: ", others);
}

void Watchdog::start(std::chrono::milliseconds timeout) {
  world_.observe(this);
  timeout_ = timeout;
  mine().watched_at_ms = now_ms();
  thread_ = std::thread([this] { watch(); });
}

void Watchdog::stop() noexcept {
  world_.observe(nullptr);
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  stopped_.notify_all();
  if (thread_.joinable()) thread_.join();
  mine().watched_at_ms = 0;  // a rank that has finished is not one that does not run
}

void Watchdog::watch() {
  uint64_t last_beats = mine().beats;
  auto last_change = Clock::now();
  std::unique_lock lock(mutex_);
  while (!stopped_.wait_for(lock, std::min(timeout_ / 10, std::chrono::milliseconds(1000)), [this] { return stop_; })) {
    mine().watched_at_ms = now_ms();
    const uint64_t beats = mine().beats;
    if (beats != std::exchange(last_beats, beats)) last_change = Clock::now();
    if (Clock::now() - last_change < timeout_) continue;
    const double seconds = std::chrono::duration<double>(timeout_).count();
    log_last_words(fmt::format("no progress on {} for {:.1f} s; {}", host_, seconds, diagnosis()),
                   {.event = "hang", .step = mine().step});
    ::_exit(static_cast<int>(ExitCode::kCommunication));
  }
}

}  // namespace rankwise
