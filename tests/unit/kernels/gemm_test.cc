// Against sums in double, over sizes that fill no tile and no block.
#include "trainer/kernels/gemm.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

namespace rankwise {
namespace {

struct Matrix {
  int64_t rows, columns;
  std::vector<float> values;  // row-major
  std::vector<uint16_t> bfloat16;

  Matrix(int64_t num_rows, int64_t num_columns, std::mt19937& random)
      : rows(num_rows), columns(num_columns), values(static_cast<size_t>(num_rows * num_columns)) {
    std::uniform_real_distribution<float> uniform(-1, 1);
    for (float& value : values) {
      value = uniform(random);
      uint32_t bits;
      std::memcpy(&bits, &value, sizeof bits);
      bits &= 0xffff0000u;  // both copies hold the same number
      std::memcpy(&value, &bits, sizeof bits);
      bfloat16.push_back(static_cast<uint16_t>(bits >> 16));
    }
  }
  float at(int64_t row, int64_t column) const { return values[static_cast<size_t>(row * columns + column)]; }
};

enum class Order { kAsStored, kTransposed };  // in memory, of what the formula has

GemmTerm term_of(const Matrix& left, const Matrix& right, Order order, bool bfloat16) {
  const void* data = bfloat16 ? static_cast<const void*>(right.bfloat16.data()) : right.values.data();
  const bool stored = order == Order::kAsStored;
  return {.left = left.values.data(),
          .left_row_stride = left.columns,
          .left_depth_stride = 1,
          .right = data,
          .right_is_bfloat16 = bfloat16,
          .right_depth_stride = stored ? right.columns : 1,
          .right_column_stride = stored ? 1 : right.columns,
          .depth = left.columns};
}

double product(const Matrix& left, const Matrix& right, Order order, int64_t row, int64_t column) {
  double sum = 0;
  for (int64_t k = 0; k < left.columns; ++k)
    sum += double{left.at(row, k)} * (order == Order::kAsStored ? right.at(k, column) : right.at(column, k));
  return sum;
}

struct Case {
  int64_t rows, columns, depth;
  Order order;
  bool bfloat16;
};

class Gemm : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    if (!gemm_supported()) GTEST_SKIP() << "neither AVX2 with FMA nor AVX-512 here";
  }
};

TEST_P(Gemm, EqualsTheSumInDouble) {
  const auto& [rows, columns, depth, order, bfloat16] = GetParam();
  std::mt19937 random(7);
  const Matrix left(rows, depth, random), start(rows, columns, random), s(rows, 5, random), b(columns, 5, random);
  const Matrix right = order == Order::kAsStored ? Matrix(depth, columns, random) : Matrix(columns, depth, random);
  const GemmTerm terms[] = {term_of(left, right, order, bfloat16), term_of(s, b, Order::kTransposed, false)};
  const int64_t stride = columns + 3;
  std::vector<float> out(static_cast<size_t>(rows * stride), -9.0f);
  gemm({out.data(), stride, start.values.data(), columns, rows, columns}, terms);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) {
      const double expected =
          double{start.at(i, j)} + product(left, right, order, i, j) + product(s, b, Order::kTransposed, i, j);
      ASSERT_NEAR(out[static_cast<size_t>(i * stride + j)], expected, 1e-6 * static_cast<double>(depth + 10))
          << i << ", " << j;
    }
    for (int64_t j = columns; j < stride; ++j)
      ASSERT_EQ(out[static_cast<size_t>(i * stride + j)], -9.0f) << "beyond row " << i;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Sizes, Gemm,
    testing::Values(Case{1, 1, 1, Order::kTransposed, true}, Case{6, 16, 8, Order::kAsStored, true},
                    Case{14, 32, 8, Order::kTransposed, false}, Case{7, 17, 9, Order::kTransposed, true},
                    Case{200, 50, 33, Order::kAsStored, false}, Case{397, 61, 700, Order::kTransposed, true},
                    Case{29, 3100, 40, Order::kAsStored, true}, Case{29, 3100, 40, Order::kTransposed, false}));

TEST_F(Gemm, StartsFromOneRowForAllOrFromNothing) {
  std::mt19937 random(8);
  const Matrix left(9, 4, random), right(20, 4, random), bias(1, 20, random);
  const GemmTerm term = term_of(left, right, Order::kTransposed, true);
  std::vector<float> with(180), without(180, std::nanf(""));
  gemm({with.data(), 20, bias.values.data(), 0, 9, 20}, {&term, 1});
  gemm({without.data(), 20, nullptr, 0, 9, 20}, {&term, 1});
  for (size_t k = 0; k < with.size(); ++k) EXPECT_NEAR(with[k], without[k] + bias.values[k % 20], 1e-6);
}

TEST_F(Gemm, ReadsALeftMatrixOfEitherOrder) {
  std::mt19937 random(6);
  const Matrix left(45, 23, random), right(23, 19, random);
  std::vector<float> transposed(45 * 23), expected(45 * 19), out(45 * 19);
  for (size_t k = 0; k < transposed.size(); ++k) transposed[k] = left.values[k % 45 * 23 + k / 45];
  GemmTerm term = term_of(left, right, Order::kAsStored, true);
  gemm({expected.data(), 19, nullptr, 0, 45, 19}, {&term, 1});
  term.left = transposed.data();
  term.left_row_stride = 1;
  term.left_depth_stride = 45;
  gemm({out.data(), 19, nullptr, 0, 45, 19}, {&term, 1});
  EXPECT_EQ(out, expected);
}

TEST_F(Gemm, TheSameBitsOnAnyNumberOfThreadsAndRows) {
  std::mt19937 random(9);
  const Matrix left(211, 650, random), right(90, 650, random);
  const GemmTerm term = term_of(left, right, Order::kTransposed, true);
  std::vector<float> one(211 * 90), three(211 * 90), single_row(90);
  const int before = omp_get_max_threads();
  omp_set_num_threads(1);
  gemm({one.data(), 90, nullptr, 0, 211, 90}, {&term, 1});
  omp_set_num_threads(3);
  gemm({three.data(), 90, nullptr, 0, 211, 90}, {&term, 1});
  gemm({single_row.data(), 90, nullptr, 0, 1, 90}, {&term, 1});
  omp_set_num_threads(before);
  EXPECT_EQ(one, three);
  EXPECT_TRUE(std::equal(single_row.begin(), single_row.end(), one.begin()));
}

}  // namespace
}  // namespace rankwise
