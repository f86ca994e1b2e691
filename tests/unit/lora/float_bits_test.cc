#include "trainer/lora/float_bits.h"

#include <gtest/gtest.h>

#include <cmath>

namespace rankwise {
namespace {

// From the definition of the format, by another way than the code under test.
double half_by_definition(int bits) {
  const int exponent = bits / 1024 % 32;
  const double fraction = bits % 1024 / 1024.0;
  const double magnitude = exponent == 0 ? std::ldexp(fraction, -14) : std::ldexp(1 + fraction, exponent - 15);
  return bits >= 32768 ? -magnitude : magnitude;
}

TEST(FloatOfHalf, IsExactForEveryFiniteValue) {
  for (int bits = 0; bits < 65536; ++bits) {
    if (bits / 1024 % 32 == 31) continue;
    const float value = float_of_half(static_cast<uint16_t>(bits));
    ASSERT_EQ(value, half_by_definition(bits)) << bits;
    ASSERT_EQ(std::signbit(value), bits >= 32768) << bits;
  }
}

TEST(FloatOfHalf, KeepsInfinityAndNan) {
  EXPECT_EQ(float_of_half(0x7c00), INFINITY);
  EXPECT_EQ(float_of_half(0xfc00), -INFINITY);
  EXPECT_TRUE(std::isnan(float_of_half(0x7e01)));
}

TEST(FloatOfBfloat16, IsTheUpperHalfOfAFloat) {
  EXPECT_EQ(float_of_bfloat16(0x3f80), 1.0f);
  EXPECT_EQ(float_of_bfloat16(0xc040), -3.0f);
  EXPECT_TRUE(std::isnan(float_of_bfloat16(0x7fc0)));
}

}  // namespace
}  // namespace rankwise
