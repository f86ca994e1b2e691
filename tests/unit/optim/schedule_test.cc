// Values from the formulas; tests/parity/test_schedule.py holds every step against transformers.
#include "trainer/optim/schedule.h"

#include <gtest/gtest.h>

namespace rankwise::testing {
namespace {

Schedule schedule(ScheduleType type, int64_t warmup_steps = 10) {
  return {.type = type, .learning_rate = 2e-4, .warmup_steps = warmup_steps, .total_steps = 110};
}

TEST(Schedule, WarmsUpFromZeroToThePeak) {
  for (const auto type : {ScheduleType::kLinear, ScheduleType::kCosine, ScheduleType::kConstantWithWarmup}) {
    EXPECT_DOUBLE_EQ(schedule(type).at(0), 0.0);
    EXPECT_DOUBLE_EQ(schedule(type).at(3), 2e-4 * 0.3);
    EXPECT_DOUBLE_EQ(schedule(type).at(10), 2e-4);
  }
}

TEST(Schedule, EachDecaysInItsOwnWay) {
  EXPECT_DOUBLE_EQ(schedule(ScheduleType::kLinear).at(60), 1e-4);
  EXPECT_DOUBLE_EQ(schedule(ScheduleType::kLinear).at(85), 0.5e-4);
  EXPECT_DOUBLE_EQ(schedule(ScheduleType::kCosine).at(60), 1e-4);
  EXPECT_NEAR(schedule(ScheduleType::kCosine).at(35), 2e-4 * (0.5 + 0.25 * 1.4142135623730951),
              1e-18);  // half of 1 + cos 45 degrees
  EXPECT_DOUBLE_EQ(schedule(ScheduleType::kConstantWithWarmup).at(109), 2e-4);
  EXPECT_DOUBLE_EQ(schedule(ScheduleType::kConstant).at(0), 2e-4) << "no warm-up";
}

TEST(Schedule, IsZeroAtTheEndAndNotBelow) {
  for (const auto type : {ScheduleType::kLinear, ScheduleType::kCosine}) {
    EXPECT_NEAR(schedule(type).at(110), 0.0, 1e-20);
    EXPECT_GE(schedule(type).at(500), 0.0);
  }
  EXPECT_DOUBLE_EQ(schedule(ScheduleType::kLinear).at(500), 0.0);
}

TEST(Schedule, WorksWithoutWarmUpAndWithNothingElse) {
  EXPECT_DOUBLE_EQ(schedule(ScheduleType::kLinear, 0).at(0), 2e-4);
  EXPECT_DOUBLE_EQ(schedule(ScheduleType::kLinear, 110).at(55), 1e-4);
  EXPECT_DOUBLE_EQ(schedule(ScheduleType::kCosine, 110).at(110), 2e-4) << "nothing left to decay over";
}

}  // namespace
}  // namespace rankwise::testing
