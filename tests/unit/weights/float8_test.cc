// The codec against its definition, written out number by number.
#include "trainer/weights/float8.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>

namespace rankwise::testing {
namespace {

// All finite numbers of e4m3: 7 is the bias of the exponent; its lowest value has numbers without a leading one.
std::vector<double> e4m3_numbers() {
  std::vector<double> all;
  for (int exponent = 0; exponent < 16; ++exponent) {
    for (int fraction = 0; fraction < 8; ++fraction) {
      if (exponent == 15 && fraction == 7) continue;  // NaN
      const double leading = exponent == 0 ? 0 : 8;
      const double number = std::ldexp(leading + fraction, std::max(exponent, 1) - 7 - 3);
      all.push_back(number);
      all.push_back(-number);
    }
  }
  return all;
}

double distance_to_nearest(double value) {
  static const std::vector<double> numbers = e4m3_numbers();
  double least = std::numeric_limits<double>::infinity();
  for (const double number : numbers) least = std::min(least, std::abs(number - value));
  return least;
}

at::Tensor there_and_back(const at::Tensor& weight_OI, at::ScalarType dtype = at::kFloat) {
  const MatrixPart all{weight_OI.view({-1}), 0, weight_OI.size(0), weight_OI.size(1)};
  const at::Tensor maxima = float8_row_maxima(all);
  return float8_expand(float8_codes(all, maxima).view(weight_OI.sizes()), float8_scales(maxima), dtype);
}

TEST(Float8, GivesTheNearestNumbersOfEachRow) {
  const at::Tensor weight = at::randn({40, 100}, at::kFloat) * at::exp(4 * at::randn({40, 1}, at::kFloat));
  const at::Tensor back = there_and_back(weight);
  for (int64_t row = 0; row < 40; ++row) {
    const double scale = weight[row].abs().max().item<double>() / 448;
    for (int64_t i = 0; i < 100; ++i) {
      const double value = weight[row][i].item<double>() / scale, got = back[row][i].item<double>() / scale;
      ASSERT_LE(std::abs(got - value), distance_to_nearest(value) + 1e-4) << row << " " << i;
    }
  }
}

TEST(Float8, KeepsTheLargestOfARowAndZeros) {
  const at::Tensor weight = at::tensor({0., 3., -7., 0., 0., 0., 1e-30, -1e-30, 0.}, at::kFloat).view({3, 3});
  const at::Tensor back = there_and_back(weight);
  EXPECT_FLOAT_EQ(back[0][2].item<float>(), -7.0f);
  EXPECT_TRUE(back[1].equal(weight[1]));
  EXPECT_FLOAT_EQ(back[2][1].item<float>(), -1e-30f);
}

// Parts begin and end anywhere in a row.
TEST(Float8, PartsMakeTheSameAsTheWhole) {
  constexpr int64_t kRows = 7, kColumns = 30;
  const at::Tensor weight = at::randn({kRows, kColumns}, at::kFloat), flat = weight.view({-1});
  const MatrixPart all{flat, 0, kRows, kColumns};
  const at::Tensor maxima = float8_row_maxima(all), codes = float8_codes(all, maxima);
  EXPECT_TRUE(maxima.equal(weight.abs().amax(1)));
  for (const int64_t cut : {1, 29, 30, 31, 100, 209}) {
    const MatrixPart head{flat.narrow(0, 0, cut), 0, kRows, kColumns};
    const MatrixPart tail{flat.narrow(0, cut, flat.numel() - cut), cut, kRows, kColumns};
    EXPECT_TRUE(at::maximum(float8_row_maxima(head), float8_row_maxima(tail)).equal(maxima)) << cut;
    EXPECT_TRUE(at::cat({float8_codes(head, maxima), float8_codes(tail, maxima)}).equal(codes)) << cut;
  }
}

TEST(Float8, OtherDtypesAreRoundedFromFloat32) {
  const at::Tensor weight = at::randn({5, 64}, at::kFloat), back = there_and_back(weight);
  for (const auto dtype : {at::kBFloat16, at::kDouble})
    EXPECT_TRUE(there_and_back(weight, dtype).equal(back.to(dtype)));
}

}  // namespace
}  // namespace rankwise::testing
