#include "trainer/model/rope.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <vector>

#include "tests/support/tolerance.h"

namespace rankwise::testing {
namespace {

constexpr int64_t kHeadSize = 16;

ModelConfig config() {
  ModelConfig c;
  c.head_dim = kHeadSize;
  c.rope_theta = 10000.0;
  return c;
}

RopeAngles angles_of(const ModelConfig& c, const std::vector<int64_t>& positions) {
  return Rope(c).angles(positions, at::kDouble, at::kCPU);
}

RopeAngles first_angles(int64_t count) {
  std::vector<int64_t> positions(static_cast<size_t>(count));
  std::iota(positions.begin(), positions.end(), 0);
  return angles_of(config(), positions);
}

at::Tensor rotated(const at::Tensor& x, const RopeAngles& angles, bool inverse = false) {
  const at::Tensor copy = x.clone();
  apply_rope(copy, angles, inverse);
  return copy;
}

// How far one position turns the d-th pair.
double angle(const ModelConfig& c, int64_t position, int64_t d) {
  const RopeAngles angles = angles_of(c, {position});
  return std::atan2(angles.sin_N1D.index({0, 0, d}).item<double>(), angles.cos_N1D.index({0, 0, d}).item<double>());
}

TEST(Rope, TurnsElementAndItsPartnerHalfAHeadFurther) {
  const std::vector<int64_t> positions = {0, 1, 5};
  const at::Tensor x = numbers({3, 2, kHeadSize}, 1), y = rotated(x, angles_of(config(), positions));
  for (int64_t n = 0; n < 3; ++n) {
    for (int64_t d = 0; d < kHeadSize / 2; ++d) {
      const double turn = static_cast<double>(positions[static_cast<size_t>(n)]) *
                          std::pow(10000.0, -2.0 * static_cast<double>(d) / kHeadSize);
      const double a = x.index({n, 1, d}).item<double>(), b = x.index({n, 1, d + kHeadSize / 2}).item<double>();
      // Angles are float32's, as transformers has them.
      EXPECT_NEAR(y.index({n, 1, d}).item<double>(), a * std::cos(turn) - b * std::sin(turn), 1e-6);
      EXPECT_NEAR(y.index({n, 1, d + kHeadSize / 2}).item<double>(), b * std::cos(turn) + a * std::sin(turn), 1e-6);
    }
  }
}

TEST(Rope, TheInverseTurnsBack) {
  const RopeAngles angles = first_angles(40);
  const at::Tensor x = numbers({40, 3, kHeadSize}, 1);
  // sin and cos were rounded to float32: a turn there and back scales by sin^2 + cos^2.
  EXPECT_LT(relative_difference(rotated(rotated(x, angles), angles, /*inverse=*/true), x), 1e-7);
}

// <rope(x), y> = <x, inverse(y)>: what makes the inverse its gradient.
TEST(Rope, TheInverseIsTheGradient) {
  const RopeAngles angles = first_angles(11);
  const at::Tensor x = numbers({11, 3, kHeadSize}, 1), y = numbers({11, 3, kHeadSize}, 2);
  const double left = rotated(x, angles).mul(y).sum().item<double>();
  EXPECT_NEAR(left, x.mul(rotated(y, angles, /*inverse=*/true)).sum().item<double>(), 1e-12 * std::abs(left));
}

TEST(Rope, RotatesAViewInPlaceAndLeavesItsNeighbours) {
  const at::Tensor rows = numbers({4, 5, kHeadSize}, 1), before = rows.clone();
  const RopeAngles angles = first_angles(4);
  apply_rope(rows.narrow(1, 0, 3), angles, false);
  EXPECT_TRUE(rows.narrow(1, 3, 2).equal(before.narrow(1, 3, 2)));
  EXPECT_TRUE(rows.narrow(1, 0, 3).equal(rotated(before.narrow(1, 0, 3), angles)));
}

TEST(Rope, TheTableGrowsWithoutAChangeInWhatItHeld) {
  Rope rope(config());
  const RopeAngles before = rope.angles({0, 3, 2}, at::kDouble, at::kCPU);
  const RopeAngles later = rope.angles({1000, 3, 4095, 0, 2}, at::kDouble, at::kCPU);
  for (const auto& [row, row_before] : {std::pair(3, 0), std::pair(1, 1), std::pair(4, 2)}) {
    EXPECT_TRUE(later.cos_N1D[row].equal(before.cos_N1D[row_before]));
    EXPECT_TRUE(later.sin_N1D[row].equal(before.sin_N1D[row_before]));
  }
  EXPECT_TRUE(later.sin_N1D[2].equal(angles_of(config(), {4095}).sin_N1D[0]));
}

TEST(Rope, LinearScalingStretchesPositions) {
  auto stretched = config();
  stretched.linear_rope_factor = 4.0;
  for (int64_t d = 0; d < kHeadSize / 2; ++d) EXPECT_NEAR(angle(stretched, 8, d), angle(config(), 2, d), 1e-6);
}

TEST(Rope, Llama3ScalingSlowsLongWavesAndKeepsShortOnes) {
  auto scaled = config();
  scaled.rope_theta = 500000.0;
  const auto plain = scaled;
  scaled.rope_scaling = Llama3RopeScaling{
      .factor = 8, .low_freq_factor = 1, .high_freq_factor = 4, .original_max_position_embeddings = 256};
  for (int64_t d = 0; d < kHeadSize / 2; ++d) {
    const double wavelength = 2 * M_PI / std::pow(500000.0, -2.0 * static_cast<double>(d) / kHeadSize);
    const double ratio = angle(plain, 1, d) / angle(scaled, 1, d);
    if (wavelength < 64) {
      EXPECT_NEAR(ratio, 1, 1e-5) << d;
    }
    if (wavelength > 256) {
      EXPECT_NEAR(ratio, 8, 1e-5) << d;
    }
    if (wavelength > 64 && wavelength < 256) {
      const double blend = (256 / wavelength - 1) / 3;
      EXPECT_NEAR(ratio, 1 / ((1 - blend) / 8 + blend), 1e-5) << d;
    }
  }
}

}  // namespace
}  // namespace rankwise::testing
