#include "trainer/phase_clock.h"

#include <gtest/gtest.h>

#include <chrono>
#include <numeric>

namespace rankwise {
namespace {

using Clock = std::chrono::steady_clock;

double of(const PhaseSeconds& seconds, Phase phase) { return seconds[static_cast<size_t>(phase)]; }

void spend(double seconds) {
  const auto end = Clock::now() + std::chrono::duration<double>(seconds);
  while (Clock::now() < end) {
  }
}

TEST(PhaseClock, PhasesMakeUpTheTimeAndNothingIsCountedTwice) {
  PhaseClock clock(c10::kCPU);
  const auto start = Clock::now();
  {
    const PhaseScope scope(clock, Phase::kData);
    spend(0.002);
    clock.enter(Phase::kForward);
    spend(0.004);
  }
  const double wall = std::chrono::duration<double>(Clock::now() - start).count();
  const PhaseSeconds seconds = clock.take();
  EXPECT_GE(of(seconds, Phase::kData), 0.002);
  EXPECT_GE(of(seconds, Phase::kForward), 0.004);
  EXPECT_LE(std::accumulate(seconds.begin(), seconds.end(), 0.0), wall);
  EXPECT_EQ(clock.take(), PhaseSeconds{});
}

TEST(PhaseClock, AWaitForTheBaseIsTakenOutOfThePhaseThatWaits) {
  PhaseClock clock(c10::kCPU);
  {
    const PhaseScope scope(clock, Phase::kBackward);
    spend(0.002);
    clock.wait_begins("gather");
    spend(0.006);
    clock.wait_ends();
    spend(0.002);
  }
  const PhaseSeconds seconds = clock.take();
  EXPECT_GE(of(seconds, Phase::kGather), 0.006);
  EXPECT_GE(of(seconds, Phase::kBackward), 0.004);
  EXPECT_EQ(std::accumulate(seconds.begin(), seconds.end(), 0.0),
            of(seconds, Phase::kGather) + of(seconds, Phase::kBackward));
}

TEST(PhaseClock, WaitsOfAnEvaluationStayIts) {
  PhaseClock clock(c10::kCPU);
  {
    const PhaseScope scope(clock, Phase::kEval);
    clock.wait_begins("gather");
    spend(0.002);
    clock.wait_ends();
  }
  const PhaseSeconds seconds = clock.take();
  EXPECT_GE(of(seconds, Phase::kEval), 0.002);
  EXPECT_EQ(of(seconds, Phase::kGather), 0);
}

TEST(PhaseClock, AWaitThatFailedDoesNotGoOnInTheNextPhase) {
  PhaseClock clock(c10::kCPU);
  try {
    const PhaseScope scope(clock, Phase::kForward);
    clock.wait_begins("gather");
    throw 1;
  } catch (int) {
  }
  clock.take();
  spend(0.002);
  EXPECT_EQ(clock.take(), PhaseSeconds{});
}

TEST(PhaseClock, TimeOutsideOfPhasesBelongsToNone) {
  PhaseClock clock(c10::kCPU);
  spend(0.002);
  EXPECT_EQ(clock.take(), PhaseSeconds{});
}

}  // namespace
}  // namespace rankwise
