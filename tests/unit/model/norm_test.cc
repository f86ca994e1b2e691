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
TEST(RmsNorm, WorksOnHeadsInsideWiderRows) {
  const at::Tensor rows = numbers({5, 6, 8}, 1), weight = numbers({8}, 2), dy = numbers({5, 3, 8}, 3);
  const at::Tensor heads = rows.narrow(1, 2, 3);
  const at::Tensor exact = with_gradient(heads);
  reference(exact, weight).backward(dy);
  expect_close(forward(heads, weight), reference(heads, weight), "y");
  expect_close(rms_norm_backward(dy.clone(), heads, rms_norm_rstd(heads, kEps), weight), exact.grad(), "dx");
}

}  // namespace
}  // namespace rankwise::testing
