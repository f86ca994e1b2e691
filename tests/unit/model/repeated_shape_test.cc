#include "trainer/model/repeated_shape.h"

#include <gtest/gtest.h>

namespace rankwise::testing {
namespace {

const RepeatedShape::Shape kOne{512, 500, 256}, kOther{512, 501, 256};

// The micro-batch of a row of kOne in which recording pays; 0: in none of `count`.
int64_t first_worth_it(RepeatedShape& shapes, int64_t count) {
  shapes.comes(kOther);
  int64_t first = 0;
  for (int64_t n = 1; n <= count; ++n) {
    if (shapes.comes(kOne) && first == 0) first = n;
  }
  return first;
}

TEST(RepeatedShape, TheSecondInARowIsWorthIt) {
  RepeatedShape shapes;
  EXPECT_EQ(first_worth_it(shapes, 3), 2);
  EXPECT_TRUE(shapes.comes(kOne)) << "and all after it";
}

TEST(RepeatedShape, ShapesByTurnsNeverAre) {
  RepeatedShape shapes;
  for (int n = 0; n < 10; ++n) {
    EXPECT_FALSE(shapes.comes(kOne));
    EXPECT_FALSE(shapes.comes(kOther));
  }
}

TEST(RepeatedShape, WhatWasLostTooSoonWantsTwiceAsMany) {
  RepeatedShape shapes;
  for (const int64_t wanted : {2, 4, 8, 16}) {
    EXPECT_EQ(first_worth_it(shapes, wanted - 1), 0);
    EXPECT_EQ(first_worth_it(shapes, wanted), wanted);
    shapes.lost(RepeatedShape::kPays - 1);
  }
  shapes.lost(RepeatedShape::kPays);
  EXPECT_EQ(first_worth_it(shapes, 2), 2) << "what paid is wanted again";
}

TEST(RepeatedShape, TheRowBeginsAnewWhenItIsLost) {
  RepeatedShape shapes;
  EXPECT_EQ(first_worth_it(shapes, 40), 2);
  shapes.lost(RepeatedShape::kPays);
  EXPECT_FALSE(shapes.comes(kOne));
  EXPECT_TRUE(shapes.comes(kOne));
}

TEST(RepeatedShape, HoweverOftenItIsLostALongRowIsWorthIt) {
  RepeatedShape shapes;
  for (int n = 0; n < 100; ++n) shapes.lost(0);
  EXPECT_GT(first_worth_it(shapes, 1 << 20), 0);
}

}  // namespace
}  // namespace rankwise::testing
