#include "trainer/model/norm.h"

#include <ATen/ATen.h>

namespace rankwise {
namespace {

at::ScalarType statistics_type(const at::Tensor& x) {
  return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

}  // namespace

at::Tensor rms_norm_rstd(const at::Tensor& x_NC, double eps) {
  const at::Tensor norm_N1 = at::linalg_vector_norm(x_NC, 2, {-1}, /*keepdim=*/true, statistics_type(x_NC));
  return norm_N1.square_().div_(static_cast<double>(x_NC.size(-1))).add_(eps).rsqrt_();
}

at::Tensor rms_norm_apply(const at::Tensor& x_NC, const at::Tensor& rstd_N1, const at::Tensor& weight_C) {
  if (x_NC.scalar_type() == rstd_N1.scalar_type()) return x_NC.mul(rstd_N1).mul_(weight_C);
  return x_NC.to(rstd_N1.scalar_type()).mul_(rstd_N1).to(x_NC.scalar_type()).mul_(weight_C);
}

// With n = x * rstd and g = dy * weight: dx = rstd * (g - n * mean(g * n)).
at::Tensor rms_norm_backward(at::Tensor dy_NC, const at::Tensor& x_NC, const at::Tensor& rstd_N1,
                             const at::Tensor& weight_C) {
  const auto type = rstd_N1.scalar_type();
  at::Tensor g_NC = dy_NC.mul_(weight_C).to(type);
  const at::Tensor x_type_NC = x_NC.to(type);
  const at::Tensor dot_N1 = at::linalg_vecdot(g_NC, x_type_NC).unsqueeze_(-1);
  const at::Tensor scale_N1 = dot_N1.mul_(rstd_N1).mul_(rstd_N1).div_(-static_cast<double>(x_NC.size(-1)));
  return g_NC.addcmul_(x_type_NC, scale_N1).mul_(rstd_N1).to(x_NC.scalar_type());
}

}  // namespace rankwise
