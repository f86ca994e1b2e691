// On a GPU: what products in float8 are made of beside tensor expressions on the CPU, and the products beside float64.
#include "trainer/kernels/float8.h"

#include <gtest/gtest.h>

#include <limits>

#include "base/shared_library.h"
#include "tests/support/gpu_test.h"
#include "tests/support/tolerance.h"
#include "trainer/model/float8.h"
#include "trainer/model/gpu_gemm.h"
#include "trainer/weights/float8.h"

namespace rankwise::testing {
namespace {

class GpuFloat8 : public GpuTest {
 protected:
  // [out, in], as the base's loader makes it.
  static Float8Weight packed(const at::Tensor& weight_OI) {
    const MatrixPart part{weight_OI.view({-1}), 0, weight_OI.size(0), weight_OI.size(1)};
    const at::Tensor maxima = float8_row_maxima(part);
    return {float8_codes(part, maxima).view(weight_OI.sizes()).contiguous(), float8_scales(maxima)};
  }
  static Float8Weight on_gpu(const Float8Weight& weight) { return {weight.codes_OI.cuda(), weight.scales_O.cuda()}; }
  // Codes times scales, in float64 on the CPU.
  static at::Tensor numbers_of(const at::Tensor& codes, const at::Tensor& scales_N1) {
    return codes.cpu().view(at::kFloat8_e4m3fn).to(at::kDouble) * scales_N1.cpu().to(at::kDouble);
  }
  static at::Tensor numbers_of(const Float8Rows& rows) {
    return numbers_of(rows.codes_NC.view(at::kByte), rows.scales_N1);
  }
  static at::Tensor product(const Float8Rows& x_NI, const Float8Weight& weight) {
    const at::Tensor out_NO = at::empty({x_NI.codes_NC.size(0), weight.codes_OI.size(0)}, kOnGpu);
    float8_product(out_NO, {}, x_NI, weight);
    return out_NO;
  }
  static at::Tensor product_transposed(const at::Tensor& dy_NO, const Float8Weight& weight) {
    const at::Tensor out_NI = at::empty({dy_NO.size(0), weight.codes_OI.size(1)}, kOnGpu);
    float8_product_transposed(out_NI, {}, dy_NO, weight);
    return out_NI;
  }

 private:
  inline static const auto kOnGpu = at::TensorOptions(at::kBFloat16).device(at::kCUDA);
};

struct Shape {
  int64_t rows, columns;
};
const Shape kShapes[] = {{1, 16}, {3, 64}, {5000, 576}, {7, 4096}, {3, 14'336}, {2, 57'344}};

TEST_F(GpuFloat8, RowsAreQuantisedAsOnTheCpu) {
  for (const auto [rows, columns] : kShapes) {
    for (const auto dtype : {at::kFloat, at::kBFloat16}) {
      SCOPED_TRACE(columns);
      const at::Tensor x = at::randn({rows, columns}, at::kFloat).to(dtype);
      x.select(0, rows - 1).zero_();
      const Float8Weight expected = packed(x.to(at::kFloat));
      const Float8Rows seen = float8_rows(x.cuda());
      EXPECT_TRUE(seen.codes_NC.view(at::kByte).cpu().equal(expected.codes_OI));
      EXPECT_TRUE(seen.scales_N1.squeeze(1).cpu().equal(expected.scales_O));
    }
  }
}

TEST_F(GpuFloat8, AWeightIsQuantisedAsOnTheCpu) {
  const at::Tensor w = at::randn({5000, 64}, at::kFloat) * 0.02;
  const Float8Weight expected = packed(w), seen = packed(w.cuda());
  EXPECT_TRUE(seen.codes_OI.cpu().equal(expected.codes_OI));
  EXPECT_TRUE(seen.scales_O.cpu().equal(expected.scales_O));
}

TEST_F(GpuFloat8, FactorsComeFirstAndRowsMayBePartOfAWiderMatrix) {
  const at::Tensor wide = at::randn({9, 512}, at::kBFloat16), x = wide.narrow(1, 128, 256);
  const at::Tensor factors = at::rand({256}, at::kFloat) + 0.1;
  const Float8Weight expected = packed(x.to(at::kFloat).mul(factors));
  const Float8Rows seen = float8_rows(wide.cuda().narrow(1, 128, 256), factors.cuda());
  EXPECT_TRUE(seen.codes_NC.view(at::kByte).cpu().equal(expected.codes_OI));
  EXPECT_TRUE(seen.scales_N1.squeeze(1).cpu().equal(expected.scales_O));
}

TEST_F(GpuFloat8, WhatIsNotFiniteStaysSo) {
  for (const double odd : {std::numeric_limits<double>::infinity(), std::numeric_limits<double>::quiet_NaN()}) {
    const at::Tensor x = at::randn({2, 64}, at::kFloat);
    x.select(0, 1).select(0, 5).fill_(odd);
    const at::Tensor finite = numbers_of(float8_rows(x.cuda())).isfinite().all(1);
    EXPECT_TRUE(finite[0].item<bool>());
    EXPECT_FALSE(finite[1].item<bool>()) << odd;
  }
}

TEST_F(GpuFloat8, BytesChangePlaces) {
  for (const auto [rows, columns] : {Shape{16, 16}, {128, 128}, {48, 4096}, {4096, 144}, {28'672, 4096}}) {
    const at::Tensor in = at::randint(256, {rows, columns}, at::kByte).cuda();
    const at::Tensor out = at::full({columns * rows + 64}, 7, at::kByte).cuda();
    const GpuByteTranspose call{in.const_data_ptr(), out.data_ptr(), rows, columns};
    ASSERT_EQ(cuda_library_function<decltype(rankwise_transpose_bytes)>("rankwise_transpose_bytes")(&call, nullptr), 0);
    EXPECT_TRUE(out.narrow(0, 0, columns * rows).view({columns, rows}).equal(in.t())) << rows << " " << columns;
    EXPECT_TRUE(out.narrow(0, columns * rows, 64).eq(7).all().item<bool>());
  }
}

// The GEMM alone: of the numbers that it is given, rounded to bfloat16.
TEST_F(GpuFloat8, ProductsAreThoseOfTheirCodes) {
  for (const int64_t rows : {1, 17, 256}) {
    const at::Tensor x = at::randn({rows, 512}, at::kBFloat16);
    const Float8Weight weight = packed(at::randn({768, 512}, at::kFloat) * 0.02);
    const at::Tensor w = numbers_of(weight.codes_OI, weight.scales_O.unsqueeze(1));
    const Float8Rows x_gpu = float8_rows(x.cuda());
    expect_close(product(x_gpu, on_gpu(weight)).cpu(), numbers_of(x_gpu).mm(w.t()), "x W^T");

    const at::Tensor dy = at::randn({rows, 768}, at::kBFloat16);
    const at::Tensor folded = numbers_of(float8_rows(dy.cuda(), weight.scales_O.cuda()));
    const at::Tensor codes = numbers_of(weight.codes_OI, at::ones({1, 1}));
    expect_close(product_transposed(dy.cuda(), on_gpu(weight)).cpu(), folded.mm(codes), "dY W");
  }
}

// The GEMM adds what is there, also into columns of a wider matrix; small ones are added to afterwards.
TEST_F(GpuFloat8, ProductsAddToAStart) {
  for (const int64_t rows : {17, 300, 1024}) {
    SCOPED_TRACE(rows);
    const Float8Weight weight = packed(at::randn({768, 512}, at::kFloat) * 0.02);
    const at::Tensor w = numbers_of(weight.codes_OI, weight.scales_O.unsqueeze(1));
    const Float8Rows x = float8_rows(at::randn({rows, 512}, at::kBFloat16).cuda());
    const at::Tensor wide = at::randn({rows, 1024}, at::kBFloat16).cuda(), before = wide.cpu();
    const at::Tensor start = at::randn({rows, 768}, at::kBFloat16).cuda(), out = wide.narrow(1, 128, 768);
    const at::Tensor product = numbers_of(x).mm(w.t());
    float8_product(out, out, x, on_gpu(weight));
    expect_close(out.cpu(), before.narrow(1, 128, 768).to(at::kDouble) + product, "out + x W^T");
    EXPECT_TRUE(wide.cpu().narrow(1, 0, 128).equal(before.narrow(1, 0, 128)));
    EXPECT_TRUE(wide.cpu().narrow(1, 896, 128).equal(before.narrow(1, 896, 128)));
    float8_product(out, start, x, on_gpu(weight));
    expect_close(out.cpu(), start.cpu().to(at::kDouble) + product, "start + x W^T");

    const at::Tensor dy = at::randn({rows, 768}, at::kBFloat16).cuda();
    const at::Tensor dx = at::randn({rows, 512}, at::kBFloat16).cuda(), dx_before = dx.cpu().to(at::kDouble);
    const at::Tensor codes = numbers_of(weight.codes_OI, at::ones({1, 1}));
    const at::Tensor gradient = numbers_of(float8_rows(dy, weight.scales_O.cuda())).mm(codes);
    float8_product_transposed(dx, dx, dy, on_gpu(weight));
    expect_close(dx.cpu(), dx_before + gradient, "dx + dY W");
  }
}

// Not a matter of right numbers, but of a pass over memory: cuBLASLt takes the start along.
TEST_F(GpuFloat8, LargeOnesAreOneGemm) {
  const Float8Weight weight = on_gpu(packed(at::randn({768, 512}, at::kFloat)));
  const Float8Rows x = float8_rows(at::randn({300, 512}, at::kBFloat16).cuda());
  const at::Tensor out = at::randn({300, 768}, at::kBFloat16).cuda(), codes = weight.codes_OI.view(at::kFloat8_e4m3fn);
  const at::Tensor start = at::randn({300, 768}, at::kBFloat16).cuda();
  const GemmScales scales{x.scales_N1, weight.scales_O};
  EXPECT_TRUE(multiply_large(out, {}, x.codes_NC, codes.t(), scales));
  EXPECT_TRUE(multiply_large(out, out, x.codes_NC, codes.t(), scales));
  EXPECT_TRUE(multiply_large(out, start, x.codes_NC, codes.t(), scales));
  EXPECT_FALSE(multiply_large(out, {}, x.codes_NC, codes.t()));  // codes alone are no numbers
}

// e4m3 has 3 bits behind the point: half a step is 2^-4 of a number, 0.036 or less of them in the mean; a product of
// two such rounded sides is off by sqrt(2) of one.
TEST_F(GpuFloat8, ProductsAreNearThoseOfTheUnroundedNumbers) {
  const at::Tensor x = at::randn({256, 1024}, at::kBFloat16), w = at::randn({512, 1024}, at::kFloat) * 0.02;
  w.mul_(at::exp(at::randn({512, 1})));  // channels of many sizes
  const Float8Weight weight = on_gpu(packed(w));
  const at::Tensor y = product(float8_rows(x.cuda()), weight).cpu();
  EXPECT_LT(relative_difference(y, x.to(at::kDouble).mm(w.to(at::kDouble).t())), 1.42 * 0.036);
  const at::Tensor dy = at::randn({256, 512}, at::kBFloat16);
  const at::Tensor dx = product_transposed(dy.cuda(), weight).cpu();
  EXPECT_LT(relative_difference(dx, dy.to(at::kDouble).mm(w.to(at::kDouble))), 1.42 * 0.036);
}

TEST_F(GpuFloat8, NothingIsNoError) {
  const GpuFloat8Rows rows{};
  const GpuByteTranspose bytes{};
  EXPECT_EQ(cuda_library_function<decltype(rankwise_float8_rows)>("rankwise_float8_rows")(&rows, nullptr), 0);
  EXPECT_EQ(cuda_library_function<decltype(rankwise_transpose_bytes)>("rankwise_transpose_bytes")(&bytes, nullptr), 0);
}

}  // namespace
}  // namespace rankwise::testing
