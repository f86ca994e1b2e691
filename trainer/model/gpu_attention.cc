#include "trainer/model/gpu_attention.h"

#include <ATen/ATen.h>
#include <ATen/record_function.h>

#include <cmath>

namespace rankwise {
namespace {

double scale_of(const AttentionShape& shape) { return 1.0 / std::sqrt(static_cast<double>(shape.head_dim)); }

bool is_dense(const SampleLayout& samples, const AttentionShape& shape) {
  constexpr int64_t kLargestHead = 128;  // of cuDNN's backward pass
  const bool sees_all = !shape.sliding_window || samples.longest() <= *shape.sliding_window;
  return sees_all && samples.equal() && shape.head_dim <= kLargestHead &&
         !at::globalContext().deterministicAlgorithms();
}

// [N, H, D] to [S, H, T, D], a view.
at::Tensor samples_SHTD(const at::Tensor& x_NHD, const SampleLayout& samples) {
  return x_NHD.unflatten(0, {-1, samples.longest()}).transpose(1, 2);
}

QkvViews samples_of(const at::Tensor& qkv_NE, const SampleLayout& samples, const AttentionShape& shape) {
  const QkvViews rows = split_qkv(qkv_NE, shape);
  return {samples_SHTD(rows.q_NHD, samples), samples_SHTD(rows.k_NKD, samples), samples_SHTD(rows.v_NKD, samples)};
}

at::Tensor join(const at::Tensor& dq_NHD, const at::Tensor& dk_NKD, const at::Tensor& dv_NKD) {
  return at::cat({dq_NHD, dk_NKD, dv_NKD}, 1).flatten(1);
}

at::Tensor rows_NHD(const at::Tensor& x_SHTD) { return x_SHTD.transpose(1, 2).flatten(0, 1); }

struct Window {
  std::optional<int64_t> left, right;
};

// FlashAttention counts the neighbours on either side.
Window window_of(const AttentionShape& shape) {
  if (!shape.sliding_window) return {};
  return {*shape.sliding_window - 1, 0};
}

}  // namespace

bool fits_gpu_attention(const at::Tensor& qkv_NE, const AttentionShape& shape) {
  return qkv_NE.is_cuda() && qkv_NE.element_size() == 2 && shape.head_dim % 8 == 0 && shape.head_dim <= 256;
}

at::Tensor gpu_attention_forward(const at::Tensor& qkv_NE, const SampleLayout& samples, const AttentionShape& shape,
                                 AttentionSaved* saved) {
  RECORD_FUNCTION("rankwise::attention_forward", {});
  AttentionSaved made;
  at::Tensor out;
  if (is_dense(samples, shape)) {
    const QkvViews in = samples_of(qkv_NE, samples, shape);
    auto result = at::_scaled_dot_product_cudnn_attention(in.q_NHD, in.k_NKD, in.v_NKD, {}, saved != nullptr, 0.0,
                                                          /*is_causal=*/true, false, scale_of(shape));
    out = rows_NHD(std::get<0>(result));
    made = {std::get<1>(result), std::get<6>(result), std::get<7>(result)};
  } else {
    const QkvViews in = split_qkv(qkv_NE, shape);
    const int64_t longest = samples.longest();
    const Window window = window_of(shape);
    auto result =
        at::_flash_attention_forward(in.q_NHD, in.k_NKD, in.v_NKD, samples.starts_S, samples.starts_S, longest, longest,
                                     0.0, /*is_causal=*/true, false, scale_of(shape), window.left, window.right);
    out = std::get<0>(result);
    made = {std::get<1>(result), std::get<2>(result), std::get<3>(result)};
  }
  if (saved != nullptr) *saved = made;
  return out.reshape({qkv_NE.size(0), -1});
}

at::Tensor gpu_attention_backward(const at::Tensor& dout_NF, const at::Tensor& qkv_NE, const at::Tensor& out_NF,
                                  const AttentionSaved& saved, const SampleLayout& samples,
                                  const AttentionShape& shape) {
  RECORD_FUNCTION("rankwise::attention_backward", {});
  const int64_t longest = samples.longest();
  const at::Tensor dout_NHD = dout_NF.unflatten(-1, {shape.num_heads, shape.head_dim});
  const at::Tensor out_NHD = out_NF.unflatten(-1, {shape.num_heads, shape.head_dim});
  if (is_dense(samples, shape)) {
    const QkvViews in = samples_of(qkv_NE, samples, shape);
    const auto [dq, dk, dv] = at::_scaled_dot_product_cudnn_attention_backward(
        samples_SHTD(dout_NHD, samples), in.q_NHD, in.k_NKD, in.v_NKD, samples_SHTD(out_NHD, samples), saved.logsumexp,
        saved.seed, saved.offset, {}, {}, {}, longest, longest, 0.0, /*is_causal=*/true, scale_of(shape));
    return join(rows_NHD(dq), rows_NHD(dk), rows_NHD(dv));
  }
  const QkvViews in = split_qkv(qkv_NE, shape);
  const Window window = window_of(shape);
  const auto [dq, dk, dv] = at::_flash_attention_backward(
      dout_NHD, in.q_NHD, in.k_NKD, in.v_NKD, out_NHD, saved.logsumexp, samples.starts_S, samples.starts_S, longest,
      longest, 0.0, /*is_causal=*/true, saved.seed, saved.offset, scale_of(shape), window.left, window.right);
  return join(dq, dk, dv);
}

}  // namespace rankwise
