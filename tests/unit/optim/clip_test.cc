#include "trainer/optim/clip.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/support/tolerance.h"

namespace rankwise::testing {
namespace {

TEST(Clip, TheNormIsOverAllElements) {
  EXPECT_DOUBLE_EQ(gradient_norm(at::tensor({3.0, 0.0, -4.0}, at::kDouble)), 5.0);
  EXPECT_DOUBLE_EQ(gradient_norm(at::zeros({0}, at::kFloat)), 0.0);
}

// Squares of 1e30 are above float32's range, and a million small terms beside a large one vanish in it.
TEST(Clip, TheNormOfFloat32IsAccumulatedInFloat64) {
  EXPECT_NEAR(gradient_norm(at::full({4}, 1e30, at::kFloat)) / 2e30, 1.0, 1e-6);
  at::Tensor gradients = at::full({1'000'001}, 1e-4, at::kFloat);
  gradients[0] = 1.0f;
  EXPECT_NEAR(gradient_norm(gradients), std::sqrt(1.0 + 1e6 * 1e-8), 1e-7);
}

TEST(Clip, TheNormShowsAnElementThatIsNotFinite) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    at::Tensor gradients = at::ones({100}, at::kFloat);
    gradients[57] = bad;
    EXPECT_FALSE(std::isfinite(gradient_norm(gradients)));
  }
}

// torch.nn.utils.clip_grad_norm_: max_norm / (norm + 1e-6), at most 1.
TEST(Clip, TheFactorBringsALargeNormToTheLimitAndLeavesASmallOne) {
  EXPECT_DOUBLE_EQ(clip_factor(4.0, 1.0), 1.0 / (4.0 + 1e-6));
  EXPECT_DOUBLE_EQ(clip_factor(0.5, 1.0), 1.0);
  EXPECT_DOUBLE_EQ(clip_factor(0.0, 1.0), 1.0);
  EXPECT_DOUBLE_EQ(clip_factor(1000.0, 0.0), 1.0) << "0: no clipping";
}

}  // namespace
}  // namespace rankwise::testing
