#include "trainer/model/gpu_attention.h"

#include <ATen/ATen.h>
#include <ATen/record_function.h>

#include <cmath>

#include "base/check.h"
#include "trainer/model/cudnn_attention.h"

namespace rankwise {
namespace {

double scale_of(const AttentionShape& shape) { return 1.0 / std::sqrt(static_cast<double>(shape.head_dim)); }

struct Window {
  std::optional<int64_t> left, right;
};

// FlashAttention counts the neighbours on either side.
Window window_of(const AttentionShape& shape) {
  if (!shape.sliding_window) return {};
  return {*shape.sliding_window - 1, 0};
}

at::Tensor flash_forward(const at::Tensor& qkv_NE, const SampleLayout& samples, const AttentionShape& shape,
                         AttentionSaved* saved) {
  const QkvViews in = split_qkv(qkv_NE, shape);
  const int64_t longest = samples.longest();
  const Window window = window_of(shape);
  auto [out, logsumexp, seed, offset, unused] =
      at::_flash_attention_forward(in.q_NHD, in.k_NKD, in.v_NKD, samples.starts_S, samples.starts_S, longest, longest,
                                   0.0, /*is_causal=*/true, false, scale_of(shape), window.left, window.right);
  if (saved != nullptr) *saved = {.logsumexp = logsumexp, .seed = seed, .offset = offset};
  return out.reshape({qkv_NE.size(0), -1});
}

at::Tensor flash_backward(const at::Tensor& dout_NF, const at::Tensor& qkv_NE, const at::Tensor& out_NF,
                          const AttentionSaved& saved, const SampleLayout& samples, const AttentionShape& shape) {
  const at::Tensor dout_NHD = dout_NF.unflatten(-1, {shape.num_heads, shape.head_dim});
  const at::Tensor out_NHD = out_NF.unflatten(-1, {shape.num_heads, shape.head_dim});
  const QkvViews in = split_qkv(qkv_NE, shape);
  const int64_t longest = samples.longest();
  const Window window = window_of(shape);
  const auto [dq, dk, dv] = at::_flash_attention_backward(
      dout_NHD, in.q_NHD, in.k_NKD, in.v_NKD, out_NHD, saved.logsumexp, samples.starts_S, samples.starts_S, longest,
      longest, 0.0, /*is_causal=*/true, saved.seed, saved.offset, scale_of(shape), window.left, window.right);
  return at::cat({dq, dk, dv}, 1).flatten(1);
}

}  // namespace

bool fits_gpu_attention(const at::Tensor& qkv_NE, const AttentionShape& shape) {
  return qkv_NE.is_cuda() && qkv_NE.element_size() == 2 && shape.head_dim % 8 == 0 && shape.head_dim <= 256;
}

const char* gpu_attention_name(const at::Tensor& qkv_NE, const SampleLayout& samples, const AttentionShape& shape) {
  return cudnn_attention_plan(qkv_NE, samples, shape, /*with_backward=*/true) != nullptr ? "cuDNN" : "FlashAttention";
}

at::Tensor gpu_attention_forward(const at::Tensor& qkv_NE, const SampleLayout& samples, const AttentionShape& shape,
                                 AttentionSaved* saved) {
  RECORD_FUNCTION("rankwise::attention_forward", {});
  if (const GpuAttentionPlan* plan = cudnn_attention_plan(qkv_NE, samples, shape, saved != nullptr))
    return cudnn_attention_forward(*plan, qkv_NE, samples, shape, saved);
  return flash_forward(qkv_NE, samples, shape, saved);
}

at::Tensor gpu_attention_backward(const at::Tensor& dout_NF, const at::Tensor& qkv_NE, const at::Tensor& out_NF,
                                  const AttentionSaved& saved, const SampleLayout& samples,
                                  const AttentionShape& shape) {
  RECORD_FUNCTION("rankwise::attention_backward", {});
  if (!saved.by_cudnn) return flash_backward(dout_NF, qkv_NE, out_NF, saved, samples, shape);
  const GpuAttentionPlan* plan = cudnn_attention_plan(qkv_NE, samples, shape, /*with_backward=*/true);
  RW_CHECK(plan != nullptr, Error, "cuDNN computed this attention, but does not serve its backward pass");
  return cudnn_attention_backward(*plan, dout_NF, qkv_NE, out_NF, saved, samples, shape);
}

}  // namespace rankwise
