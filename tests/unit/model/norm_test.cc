#include "trainer/model/norm.h"

#include <gtest/gtest.h>

#include "tests/support/tolerance.h"

namespace rankwise::testing {
namespace {

constexpr double kEps = 1e-5;

at::Tensor reference(const at::Tensor& x, const at::Tensor& weight) {
  return x * (x.square().mean(-1, /*keepdim=*/true) + kEps).rsqrt() * weight;
}

at::Tensor forward(const at::Tensor& x, const at::Tensor& weight) {
  return rms_norm_apply(x, rms_norm_rstd(x, kEps), weight);
}

TEST(RmsNorm, DividesByTheRootOfTheMeanSquare) {
  const at::Tensor x = numbers({7, 24}, 1), weight = numbers({24}, 2);
  expect_close(forward(x, weight), reference(x, weight), "y");
  EXPECT_EQ(rms_norm_rstd(x, kEps).sizes(), at::IntArrayRef({7, 1}));
}

TEST(RmsNorm, KeepsItsStatisticsInFloat32ForSixteenBits) {
  const at::Tensor x = (numbers({5, 4096}, 1) * 3).to(at::kBFloat16), weight = numbers({4096}, 2).to(at::kBFloat16);
  const at::Tensor rstd = rms_norm_rstd(x, kEps);
  EXPECT_EQ(rstd.scalar_type(), at::kFloat);
  expect_close(rstd, (x.to(at::kDouble).square().mean(-1, true) + kEps).rsqrt(), "rstd");
  EXPECT_EQ(forward(x, weight).scalar_type(), at::kBFloat16);
  expect_close(forward(x, weight), reference(x.to(at::kDouble), weight.to(at::kDouble)), "y");
}

TEST(RmsNorm, BackwardIsAutogradsInFloat64) {
  const at::Tensor x = with_gradient(numbers({7, 24}, 1)), weight = numbers({24}, 2), dy = numbers({7, 24}, 3);
  reference(x, weight).backward(dy);
  const at::Tensor plain = x.detach();
  expect_close(rms_norm_backward(dy.clone(), plain, rms_norm_rstd(plain, kEps), weight), x.grad(), "dx");
}

TEST(RmsNorm, BackwardHoldsInTheSmallerDtypes) {
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    const at::Tensor x = numbers({7, 64}, 1, dtype), weight = numbers({64}, 2, dtype), dy = numbers({7, 64}, 3, dtype);
    const at::Tensor exact = with_gradient(x.to(at::kDouble));
    reference(exact, weight.to(at::kDouble)).backward(dy.to(at::kDouble));
    expect_close(rms_norm_backward(dy.clone(), x, rms_norm_rstd(x, kEps), weight), exact.grad(), "dx");
  }
}

// Qwen3 norms each head, a view into wider rows.
TEST(RmsNorm, OfHeadsInsideWiderRowsIsInPlace) {
  const at::Tensor rows = numbers({5, 6, 8}, 1), weight = numbers({8}, 2), others = rows.clone();
  const at::Tensor heads = rows.narrow(1, 2, 3), before = at::empty({5, 3, 8}, rows.options());
  const at::Tensor exact = with_gradient(heads), expected = reference(exact, weight);
  rms_norm_heads(heads, weight, kEps, before);
  expect_close(heads, expected, "y");
  EXPECT_TRUE(before.equal(exact));
  for (const int64_t head : {0, 1, 5}) EXPECT_TRUE(rows.select(1, head).equal(others.select(1, head))) << head;

  const at::Tensor dy_rows = numbers({5, 6, 8}, 3), dy = dy_rows.narrow(1, 2, 3);
  expected.backward(dy);
  rms_norm_heads_backward(dy, before, weight, kEps);
  expect_close(dy, exact.grad(), "dx");
}

}  // namespace
}  // namespace rankwise::testing
