#include "monitoring/thinned_curve.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace rankwise {
namespace {

TEST(ThinnedCurve, KeepsAShortCurveAsItIs) {
  ThinnedCurve curve(4);
  for (int step = 1; step <= 4; ++step) curve.add(step, 10.0 * step);
  ASSERT_EQ(curve.points().size(), 4);
  EXPECT_EQ(curve.points()[2].step, 3);
  EXPECT_EQ(curve.points()[2].value, 30);
}

TEST(ThinnedCurve, MakesNeighboursTheirMeanWhenFull) {
  ThinnedCurve curve(4);
  for (int step = 1; step <= 5; ++step) curve.add(step, 10.0 * step);
  ASSERT_EQ(curve.points().size(), 3);
  EXPECT_EQ(curve.points()[0].step, 1.5);
  EXPECT_EQ(curve.points()[1].value, 35);
  EXPECT_EQ(curve.points()[2].value, 50);
}

TEST(ThinnedCurve, StaysSmallAndKeepsTheMeanOfALongRun) {
  ThinnedCurve curve(100);
  for (int step = 0; step < 1'000'000; ++step) curve.add(step, step % 2);
  const auto points = curve.points();
  EXPECT_LE(points.size(), 100);
  EXPECT_GT(points.size(), 49);
  for (const auto& point : points) EXPECT_NEAR(point.value, 0.5, 1e-3);
}

TEST(ThinnedCurve, LeavesOutWhatIsNotFinite) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  ThinnedCurve curve(2);
  curve.add(1, nan);
  EXPECT_TRUE(std::isnan(curve.points()[0].value));
  curve.add(2, 8);
  curve.add(3, std::numeric_limits<double>::infinity());
  EXPECT_EQ(curve.points()[0].value, 8);
  EXPECT_TRUE(std::isnan(curve.points()[1].value));
}

}  // namespace
}  // namespace rankwise
