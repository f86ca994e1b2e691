#include "trainer/phase_clock.h"

#include <c10/core/Event.h>

#include <exception>
#include <iterator>
#include <utility>

namespace rankwise {

struct PhaseClock::Mark {
  c10::Event begin;
  std::optional<Phase> phase;
};

PhaseClock::PhaseClock(c10::Device device) : device_(device) {}
PhaseClock::~PhaseClock() = default;

void PhaseClock::enter(std::optional<Phase> phase) noexcept {
  if (device_.is_cpu()) {
    const Clock::time_point now = Clock::now();
    if (phase_) seconds_[static_cast<size_t>(*phase_)] += std::chrono::duration<double>(now - began_).count();
    began_ = now;
  } else {
    try {
      mark(phase);
    } catch (const std::exception&) {
      marks_.clear();
    }
  }
  phase_ = phase;
}

void PhaseClock::mark(std::optional<Phase> phase) {
  constexpr size_t kMany = 1024;  // an evaluation gathers more often than anybody takes
  Mark here{c10::Event(device_.type(), c10::EventFlag::BACKEND_DEFAULT), phase};
  here.begin.record(current_stream(device_));
  marks_.push_back(std::move(here));
  if (marks_.size() > kMany) collect();
}

void PhaseClock::wait_begins(std::string_view) noexcept {
  interrupted_ = phase_;
  if (phase_ != Phase::kEval) enter(Phase::kGather);
}

void PhaseClock::wait_ends() noexcept {
  if (phase_ != interrupted_) enter(interrupted_);
}

void PhaseClock::collect() {
  while (marks_.size() > 1 && std::next(marks_.begin())->begin.query()) {
    const Mark ended = std::move(marks_.front());
    marks_.pop_front();
    if (ended.phase) seconds_[static_cast<size_t>(*ended.phase)] += ended.begin.elapsedTime(marks_.front().begin) / 1e3;
  }
}

PhaseSeconds PhaseClock::take() {
  collect();
  return std::exchange(seconds_, {});
}

}  // namespace rankwise
