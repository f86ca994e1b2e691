#include "base/round_up.h"

#include <gtest/gtest.h>

namespace rankwise {
namespace {

TEST(RoundUp, TakesTheLeastMultipleThatIsNoLess) {
  for (int64_t multiple = 1; multiple <= 9; ++multiple) {
    int64_t expected = 0;
    for (int64_t value = 0; value <= 40; ++value) {
      while (expected < value) expected += multiple;
      EXPECT_EQ(round_up(value, multiple), expected) << value << " to a multiple of " << multiple;
    }
  }
}

TEST(RoundUp, TakesSizesOfModels) { EXPECT_EQ(round_up((int64_t{1} << 40) + 1, 16'384), (int64_t{1} << 40) + 16'384); }

}  // namespace
}  // namespace rankwise
