// Where the time of this rank goes, phase by phase: the host's on CPUs. On a device the stream's, to which the host
// gives its work ahead of time; where the host is late, the stream's wait is the phase's. Told of waits for units of
// the base (as their observer), it takes them out of the phase that waits: they are Phase::kGather, but for those of
// an evaluation, which lies between steps. One thread: that which computes.
#pragma once

#include <array>
#include <chrono>
#include <list>
#include <optional>
#include <string_view>

#include "comms/communicator.h"
#include "monitoring/metrics.h"
#include "trainer/weights/current_stream.h"

namespace rankwise {

using PhaseSeconds = std::array<double, kNumPhases>;

class PhaseClock final : public CommObserver {
 public:
  explicit PhaseClock(c10::Device device);
  ~PhaseClock() override;

  // The phase so far ends and this one begins; nullopt: none. Where a device is at fault it counts nothing: the next
  // call that uses the device says so.
  void enter(std::optional<Phase> phase) noexcept;
  void wait_begins(std::string_view operation) noexcept override;
  void wait_ends() noexcept override;

  // The seconds since the last call, as far as the device has come.
  PhaseSeconds take();

 private:
  using Clock = std::chrono::steady_clock;
  struct Mark;  // on a device: where in the stream a phase begins
  void mark(std::optional<Phase> phase);
  void collect();

  c10::Device device_;
  std::optional<Phase> phase_, interrupted_;
  Clock::time_point began_ = Clock::now();
  std::list<Mark> marks_;
  PhaseSeconds seconds_{};
};

// A phase from here to the end of the scope. Then the clock stands.
class PhaseScope {
 public:
  PhaseScope(PhaseClock& clock, Phase phase) : clock_(clock) { clock_.enter(phase); }
  ~PhaseScope() { clock_.enter(std::nullopt); }
  PhaseScope(const PhaseScope&) = delete;
  PhaseScope& operator=(const PhaseScope&) = delete;

 private:
  PhaseClock& clock_;
};

}  // namespace rankwise
