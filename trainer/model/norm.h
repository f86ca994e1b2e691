// Root-mean-square normalisation, y = x * rstd * weight with rstd = 1 / sqrt(mean(x^2) + eps) (Zhang and Sennrich
// 2019). Statistics in float32 for 16- and 32-bit inputs, in float64 for float64. The weight is frozen. Legend: N rows,
// C channels, H heads, D head size.
#pragma once

#include <ATen/core/Tensor.h>

namespace rankwise {

struct Normed {
  at::Tensor normed_NC, rstd_N1;
};
Normed rms_norm(const at::Tensor& x_NC, const at::Tensor& weight_C, double eps);
// Its two steps.
at::Tensor rms_norm_rstd(const at::Tensor& x_NC, double eps);  // [N, 1]
at::Tensor rms_norm_apply(const at::Tensor& x_NC, const at::Tensor& rstd_N1, const at::Tensor& weight_C);
// dL/dx for dL/dy; takes dy's memory over.
at::Tensor rms_norm_backward(at::Tensor dy_NC, const at::Tensor& x_NC, const at::Tensor& rstd_N1,
                             const at::Tensor& weight_C);
// The same, added to the gradient that passes by on the residual path.
void add_rms_norm_backward(at::Tensor& gradient_NC, at::Tensor dy_NC, const at::Tensor& x_NC, const at::Tensor& rstd_N1,
                           const at::Tensor& weight_C);

// Each head by itself, in place (Qwen3's norms of q and k). x_NHD may lie in wider rows. before_NHD: gets a copy of x
// as it was, unless undefined.
void rms_norm_heads(const at::Tensor& x_NHD, const at::Tensor& weight_D, double eps, const at::Tensor& before_NHD);
// dL/dx in place of dL/dy; x_NHD as it was before.
void rms_norm_heads_backward(const at::Tensor& gradient_NHD, const at::Tensor& x_NHD, const at::Tensor& weight_D,
                             double eps);

}  // namespace rankwise
