// Root-mean-square normalisation, y = x * rstd * weight with rstd = 1 / sqrt(mean(x^2) + eps) (Zhang and Sennrich
// 2019). Statistics in float32 for 16- and 32-bit inputs, in float64 for float64. The weight is frozen. Legend: N rows,
// C channels.
#pragma once

#include <ATen/core/Tensor.h>

namespace rankwise {

struct Normed {
  at::Tensor normed_NC, rstd_N1;
};
Normed rms_norm(const at::Tensor& x_NC, const at::Tensor& weight_C, double eps);
// Its two steps. rms_norm_apply also makes the normed rows again in the backward pass.
at::Tensor rms_norm_rstd(const at::Tensor& x_NC, double eps);  // [N, 1]
at::Tensor rms_norm_apply(const at::Tensor& x_NC, const at::Tensor& rstd_N1, const at::Tensor& weight_C);
// dL/dx for dL/dy; takes dy's memory over.
at::Tensor rms_norm_backward(at::Tensor dy_NC, const at::Tensor& x_NC, const at::Tensor& rstd_N1,
                             const at::Tensor& weight_C);
// The same, added to the gradient that passes by on the residual path.
void add_rms_norm_backward(at::Tensor& gradient_NC, at::Tensor dy_NC, const at::Tensor& x_NC, const at::Tensor& rstd_N1,
                           const at::Tensor& weight_C);

}  // namespace rankwise
