#include "trainer/model/norm.h"

#include <ATen/ATen.h>
#include <ATen/record_function.h>

#include "trainer/model/gpu.h"

namespace rankwise {
namespace {

at::ScalarType statistics_type(const at::Tensor& x) {
  return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

bool on_gpu(const at::Tensor& x_NC) { return x_NC.dim() == 2 && fits_gpu_kernels(x_NC); }

void gpu_backward(const at::Tensor& gradient_NC, const at::Tensor& dy_NC, const at::Tensor& x_NC,
                  const at::Tensor& rstd_N1, const at::Tensor& weight_C, bool accumulate) {
  launch(gpu_row_kernels().rms_norm_backward, GpuRmsNormBackward{.type = gpu_type(x_NC),
                                                                 .dnormed_NC = dy_NC.const_data_ptr(),
                                                                 .x_NC = x_NC.const_data_ptr(),
                                                                 .weight_C = weight_C.const_data_ptr(),
                                                                 .rstd_N = rstd_N1.const_data_ptr<float>(),
                                                                 .gradient_NC = gradient_NC.mutable_data_ptr(),
                                                                 .rows = x_NC.size(0),
                                                                 .columns = x_NC.size(1),
                                                                 .accumulate = accumulate});
}

// Heads that are neighbours in rows of any width, as the kernel takes them.
bool heads_on_gpu(const at::Tensor& x_NHD) {
  constexpr int64_t kLargestHead = 1024;
  if (x_NHD.numel() == 0) return false;
  return fits_gpu_kernels(x_NHD.select(0, 0)) && x_NHD.stride(0) % 8 == 0 &&
         x_NHD.size(2) * x_NHD.element_size() <= kLargestHead;
}

}  // namespace

Normed rms_norm(const at::Tensor& x_NC, const at::Tensor& weight_C, double eps) {
  RECORD_FUNCTION("rankwise::rms_norm", {});
  if (!on_gpu(x_NC)) {
    const at::Tensor rstd_N1 = rms_norm_rstd(x_NC, eps);
    return {rms_norm_apply(x_NC, rstd_N1, weight_C), rstd_N1};
  }
  const Normed out{at::empty_like(x_NC), at::empty({x_NC.size(0), 1}, x_NC.options().dtype(at::kFloat))};
  launch(gpu_row_kernels().rms_norm, GpuRmsNorm{.type = gpu_type(x_NC),
                                                .x_NC = x_NC.const_data_ptr(),
                                                .weight_C = weight_C.const_data_ptr(),
                                                .normed_NC = out.normed_NC.mutable_data_ptr(),
                                                .rstd_N = out.rstd_N1.mutable_data_ptr<float>(),
                                                .rows = x_NC.size(0),
                                                .columns = x_NC.size(1),
                                                .eps = static_cast<float>(eps)});
  return out;
}

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
  RECORD_FUNCTION("rankwise::rms_norm_backward", {});
  if (on_gpu(x_NC)) {
    gpu_backward(dy_NC, dy_NC, x_NC, rstd_N1, weight_C, /*accumulate=*/false);
    return dy_NC;
  }
  const auto type = rstd_N1.scalar_type();
  at::Tensor g_NC = dy_NC.mul_(weight_C).to(type);
  const at::Tensor x_type_NC = x_NC.to(type);
  const at::Tensor dot_N1 = at::linalg_vecdot(g_NC, x_type_NC).unsqueeze_(-1);
  const at::Tensor scale_N1 = dot_N1.mul_(rstd_N1).mul_(rstd_N1).div_(-static_cast<double>(x_NC.size(-1)));
  return g_NC.addcmul_(x_type_NC, scale_N1).mul_(rstd_N1).to(x_NC.scalar_type());
}

void add_rms_norm_backward(at::Tensor& gradient_NC, at::Tensor dy_NC, const at::Tensor& x_NC, const at::Tensor& rstd_N1,
                           const at::Tensor& weight_C) {
  RECORD_FUNCTION("rankwise::add_rms_norm_backward", {});
  if (on_gpu(x_NC)) return gpu_backward(gradient_NC, dy_NC, x_NC, rstd_N1, weight_C, /*accumulate=*/true);
  gradient_NC.add_(rms_norm_backward(std::move(dy_NC), x_NC, rstd_N1, weight_C));
}

void rms_norm_heads(const at::Tensor& x_NHD, const at::Tensor& weight_D, double eps, const at::Tensor& before_NHD) {
  RECORD_FUNCTION("rankwise::rms_norm_heads", {});
  if (!heads_on_gpu(x_NHD)) {
    if (before_NHD.defined()) before_NHD.copy_(x_NHD);
    x_NHD.copy_(rms_norm_apply(x_NHD, rms_norm_rstd(x_NHD, eps), weight_D));
    return;
  }
  launch(gpu_row_kernels().head_norm,
         GpuHeadNorm{.type = gpu_type(x_NHD),
                     .x_NHD = x_NHD.mutable_data_ptr(),
                     .weight_D = weight_D.const_data_ptr(),
                     .before_NHD = before_NHD.defined() ? before_NHD.mutable_data_ptr() : nullptr,
                     .rows = x_NHD.size(0),
                     .stride = x_NHD.stride(0),
                     .before_stride = before_NHD.defined() ? before_NHD.stride(0) : 0,
                     .heads = x_NHD.size(1),
                     .head_dim = x_NHD.size(2),
                     .eps = static_cast<float>(eps)});
}

void rms_norm_heads_backward(const at::Tensor& gradient_NHD, const at::Tensor& x_NHD, const at::Tensor& weight_D,
                             double eps) {
  RECORD_FUNCTION("rankwise::rms_norm_heads_backward", {});
  if (!heads_on_gpu(gradient_NHD)) {
    gradient_NHD.copy_(rms_norm_backward(gradient_NHD.clone(), x_NHD, rms_norm_rstd(x_NHD, eps), weight_D));
    return;
  }
  launch(gpu_row_kernels().head_norm_backward, GpuHeadNormBackward{.type = gpu_type(gradient_NHD),
                                                                   .gradient_NHD = gradient_NHD.mutable_data_ptr(),
                                                                   .x_NHD = x_NHD.const_data_ptr(),
                                                                   .weight_D = weight_D.const_data_ptr(),
                                                                   .rows = gradient_NHD.size(0),
                                                                   .stride = gradient_NHD.stride(0),
                                                                   .x_stride = x_NHD.stride(0),
                                                                   .heads = gradient_NHD.size(1),
                                                                   .head_dim = gradient_NHD.size(2),
                                                                   .eps = static_cast<float>(eps)});
}

}  // namespace rankwise
