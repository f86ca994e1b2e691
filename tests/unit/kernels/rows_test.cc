#include "trainer/kernels/rows.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "trainer/kernels/gemm.h"

namespace rankwise {
namespace {

class Rows : public testing::TestWithParam<int64_t> {
 protected:
  void SetUp() override {
    if (!gemm_supported()) GTEST_SKIP() << "neither AVX2 with FMA nor AVX-512 here";
  }
  static std::vector<float> numbers(int64_t count, float range, unsigned seed) {
    std::mt19937 random(seed);
    std::uniform_real_distribution<float> uniform(-range, range);
    std::vector<float> values(static_cast<size_t>(count));
    for (float& value : values) value = uniform(random);
    return values;
  }
};

double silu(double x) { return x / (1 + std::exp(-x)); }

TEST_P(Rows, ExponentialsAreTheStandardLibrarys) {
  const int64_t columns = GetParam();
  const std::vector<float> before = numbers(2 * columns, 60, 3);
  std::vector<float> values = before, largest(2), sums(2);
  exponentiate_rows(values.data(), 2, columns, largest.data(), sums.data());
  for (size_t row = 0; row < 2; ++row) {
    const auto begin = before.begin() + static_cast<int64_t>(row) * columns;
    ASSERT_EQ(largest[row], *std::max_element(begin, begin + columns));
    double sum = 0;
    for (int64_t k = 0; k < columns; ++k) {
      const double exact = std::exp(static_cast<double>(begin[k] - largest[row]));
      const float value = values[row * static_cast<size_t>(columns) + static_cast<size_t>(k)];
      ASSERT_NEAR(value, exact, 2.4e-7 * exact + 1.7e-38) << begin[k] - largest[row];
      sum += exact;
    }
    EXPECT_NEAR(sums[row], sum, 1e-6 * sum);
  }
}

// Equal numbers are rounded to the same side again and again, the longer the sum the further.
TEST(RowsOfAVocabulary, TheSumOfExponentialsKeepsItsDigits) {
  if (!gemm_supported()) GTEST_SKIP() << "neither AVX2 with FMA nor AVX-512 here";
  constexpr int64_t kColumns = 49152;
  std::vector<float> values(kColumns, -0.1f);
  values[0] = 0;
  float largest = 0, sum = 0;
  exponentiate_rows(values.data(), 1, kColumns, &largest, &sum);
  const double exact = 1 + (kColumns - 1) * std::exp(static_cast<double>(-0.1f));
  EXPECT_NEAR(sum, exact, 2e-6 * exact);
}

TEST_P(Rows, SwigluAndItsGradient) {
  const int64_t width = GetParam();
  const std::vector<float> before = numbers(3 * 2 * width, 9, 4), dh = numbers(3 * width, 2, 5);
  std::vector<float> gate_up = before, h(static_cast<size_t>(3 * width));
  swiglu_rows(gate_up.data(), 3, width, h.data());
  EXPECT_EQ(gate_up, before);
  swiglu_rows_backward(dh.data(), 3, width, gate_up.data());
  for (int64_t k = 0; k < 3 * width; ++k) {
    const auto gate = static_cast<size_t>(k / width * 2 * width + k % width), up = gate + static_cast<size_t>(width);
    const double g = before[gate], u = before[up], d = dh[static_cast<size_t>(k)], s = 1 / (1 + std::exp(-g));
    EXPECT_NEAR(h[static_cast<size_t>(k)], silu(g) * u, 2e-6 * (1 + std::abs(silu(g) * u)));
    EXPECT_NEAR(gate_up[gate], d * u * (s + g * s * (1 - s)), 4e-6 * (1 + std::abs(d * u)));
    EXPECT_NEAR(gate_up[up], d * silu(g), 2e-6 * (1 + std::abs(d * silu(g))));
  }
}

TEST_P(Rows, WhatIsNotFiniteIsNotHidden) {
  for (const float odd : {std::nanf(""), INFINITY}) {
    std::vector<float> values(static_cast<size_t>(GetParam()), 1.0f), largest(1), sums(1);
    values.back() = odd;
    exponentiate_rows(values.data(), 1, GetParam(), largest.data(), sums.data());
    EXPECT_FALSE(std::isfinite(sums[0]));
  }
}

INSTANTIATE_TEST_SUITE_P(Widths, Rows, testing::Values(1, 7, 8, 31, 32, 33, 1000), testing::PrintToStringParamName());

}  // namespace
}  // namespace rankwise
