// Starts worlds of its own, because what is tested is how a world ends.
#include <gmock/gmock.h>

#include <fmt/format.h>

#include "comms/watchdog.h"
#include "comms/world.h"
#include "tests/support/run_program.h"

namespace rankwise::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

ProgramEnd run_ranks(int ranks, const std::string& arguments) {
  return run_program(fmt::format("{} --oversubscribe -np {} {} {}", MPIEXEC, ranks, WORLD_PROBE, arguments));
}

struct Stop {
  const char* how;
  int rank;
};

class StoppedRank : public ::testing::TestWithParam<Stop> {};

TEST_P(StoppedRank, EndsTheJobInTimeAndIsNamed) {
  const auto end = run_ranks(3, fmt::format("stop {} {}", GetParam().how, GetParam().rank));
  EXPECT_EQ(end.exit_code, 71) << end.output;
  EXPECT_THAT(end.output, HasSubstr("no progress"));
  EXPECT_THAT(end.output, HasSubstr(fmt::format("stopped: rank {} (busy in forward, step 5)", GetParam().rank)));
  for (int other = 0; other < 3; ++other) {
    if (other == GetParam().rank) continue;
    EXPECT_THAT(end.output, HasSubstr(fmt::format("rank {} (waiting in all_reduce, step 5)", other)));
  }
  EXPECT_LT(end.seconds, 30 * SLOWDOWN) << "a second of patience, and the launcher's own time on a busy machine";
}

INSTANTIATE_TEST_SUITE_P(Watchdog, StoppedRank, ::testing::Values(Stop{"sleep", 1}, Stop{"spin", 0}, Stop{"signal", 2}),
                         [](const auto& test) { return std::string(test.param.how); });

TEST(Watchdog, ARankThatWasStoppedBeforeItWatchedIsNamed) {
  const auto end = run_ranks(3, "stop early 2");
  EXPECT_EQ(end.exit_code, 71) << end.output;
  EXPECT_THAT(end.output, HasSubstr("stopped: rank 2 (busy in start, step 0), whose process does not run; kept"));
}

TEST(Watchdog, SlowProgressIsProgress) {
  const auto end = run_ranks(2, "calm");
  EXPECT_EQ(end.exit_code, 0) << end.output;
  EXPECT_THAT(end.output, Not(HasSubstr("no progress")));
}

TEST(Watchdog, TellsFromTheSlotsWhoStopped) {
  World alone;
  Watchdog watchdog(alone);
  watchdog.beat("checkpoint", 12);
  EXPECT_EQ(watchdog.diagnosis(), "stopped: rank 0 (busy in checkpoint, step 12)");
  watchdog.wait_begins("all_gather");
  EXPECT_EQ(watchdog.diagnosis(),
            "stopped: none on this host: look at the network; kept waiting: rank 0 (waiting in "
            "all_gather, step 12)");
  watchdog.wait_ends();
  watchdog.beat("a phase whose name is longer than its field has room for", 13);
  EXPECT_EQ(watchdog.diagnosis(), "stopped: rank 0 (busy in a phase whose name is longer th, step 13)");
}

// The watchdog goes with what fails; the world is still there when the error is told.
TEST(Watchdog, WhatTheRankDidOutlivesIt) {
  World alone;
  EXPECT_EQ(alone.doing(), "");
  {
    Watchdog watchdog(alone);
    watchdog.beat("forward", 3);
  }
  EXPECT_EQ(alone.doing(), "forward, step 3");
}

}  // namespace
}  // namespace rankwise::testing
