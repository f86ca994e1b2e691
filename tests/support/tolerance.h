// How far two results may lie apart: a matter of the dtype, in one table (docs/design.md), never of a test.
#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace rankwise::testing {

// Of one operation or gradient, as a relative norm.
inline double tolerance(at::ScalarType dtype) {
  switch (dtype) {
    case at::kDouble:
      return 1e-12;
    case at::kFloat:
      return 1e-5;
    default:
      return 1e-2;  // bfloat16
  }
}

inline double relative_difference(const at::Tensor& actual, const at::Tensor& expected) {
  const at::Tensor a = actual.to(at::kDouble), e = expected.to(at::kDouble);
  const double scale = e.norm().item<double>();
  return (a - e).norm().item<double>() / (scale > 0 ? scale : 1.0);
}

// Of the same shape, and as near as the dtype of `actual` allows.
inline void expect_close(const at::Tensor& actual, const at::Tensor& expected, const char* what) {
  ASSERT_TRUE(actual.defined()) << what;
  ASSERT_EQ(actual.sizes(), expected.sizes()) << what;
  EXPECT_LT(relative_difference(actual, expected), tolerance(actual.scalar_type())) << what;
}

// Computed in float32 and rounded to the dtype of `actual` once: hardly further away than `expected` itself, rounded.
inline void expect_rounded_once(const at::Tensor& actual, const at::Tensor& expected, const char* what) {
  ASSERT_EQ(actual.sizes(), expected.sizes()) << what;
  const double rounding = relative_difference(expected.to(actual.scalar_type()), expected);
  EXPECT_LT(relative_difference(actual, expected), 1.1 * rounding + tolerance(at::kFloat)) << what;
}

// As near to `expected` as what a library makes of the same numbers in the same dtype, which sums in another order.
inline void expect_as_close_as(const at::Tensor& peer, const at::Tensor& actual, const at::Tensor& expected,
                               const char* what) {
  ASSERT_EQ(actual.sizes(), expected.sizes()) << what;
  ASSERT_EQ(actual.scalar_type(), peer.scalar_type()) << what;
  EXPECT_LE(relative_difference(actual, expected), 1.05 * relative_difference(peer, expected) + tolerance(at::kFloat))
      << what;
}

// Numbers between -1 and 1 that are the same in every run.
inline at::Tensor numbers(at::IntArrayRef shape, int salt, at::ScalarType dtype = at::kDouble) {
  const at::Tensor index = at::arange(c10::multiply_integers(shape), at::kDouble);
  return (index * 12.9898 + salt * 78.233).sin().mul(43758.5453).frac().view(shape).to(dtype);
}

inline at::Tensor with_gradient(const at::Tensor& tensor) { return tensor.detach().clone().requires_grad_(true); }

}  // namespace rankwise::testing
