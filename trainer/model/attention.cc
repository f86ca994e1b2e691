#include "trainer/model/attention.h"

#include <ATen/ATen.h>

#include <limits>

namespace rankwise {
namespace {

// G query heads share a key head, T tokens of one sample. The kernel wants as many key heads as query heads: key heads
// become its batch and the sharing is a stride of zero, so that nothing is copied.
at::Tensor queries_KGTD(const at::Tensor& x_THD, const AttentionShape& shape) {
  const int64_t per_key = shape.num_heads / shape.num_kv_heads;
  return x_THD.unflatten(1, {shape.num_kv_heads, per_key}).permute({1, 2, 0, 3});
}

at::Tensor keys_KGTD(const at::Tensor& x_TKD, const AttentionShape& shape) {
  const int64_t per_key = shape.num_heads / shape.num_kv_heads;
  return x_TKD.permute({1, 0, 2}).unsqueeze(1).expand({-1, per_key, -1, -1});
}

// Additive mask [T, P] of a window, where query t stands at position P - T + t; undefined where the window is wide
// enough.
at::Tensor window_mask(int64_t num_queries, int64_t num_keys, const AttentionShape& shape, at::ScalarType dtype) {
  if (!shape.sliding_window || num_keys <= *shape.sliding_window) return {};
  const at::Tensor hidden =
      at::full({num_queries, num_keys}, -std::numeric_limits<double>::infinity(), at::TensorOptions().dtype(dtype));
  const int64_t offset = num_keys - num_queries;
  return hidden.triu(offset + 1) + hidden.tril(offset - *shape.sliding_window);
}

std::optional<at::Tensor> optional(const at::Tensor& tensor) {
  return tensor.defined() ? std::optional<at::Tensor>(tensor) : std::nullopt;
}

struct SampleViews {
  at::Tensor q, k, v;  // [K, G, T, D]
  at::Tensor mask;     // undefined: plain causal
};

SampleViews sample_views(const QkvViews& all, int64_t begin, int64_t length, const AttentionShape& shape) {
  return {queries_KGTD(all.q_NHD.narrow(0, begin, length), shape), keys_KGTD(all.k_NKD.narrow(0, begin, length), shape),
          keys_KGTD(all.v_NKD.narrow(0, begin, length), shape),
          window_mask(length, length, shape, all.q_NHD.scalar_type())};
}

}  // namespace

QkvViews split_qkv(const at::Tensor& qkv_NE, const AttentionShape& shape) {
  const at::Tensor heads = qkv_NE.unflatten(-1, {-1, shape.head_dim});
  return {heads.narrow(1, 0, shape.num_heads), heads.narrow(1, shape.num_heads, shape.num_kv_heads),
          heads.narrow(1, shape.num_heads + shape.num_kv_heads, shape.num_kv_heads)};
}

at::Tensor attention_forward(const at::Tensor& qkv_NE, const std::vector<int64_t>& sample_starts,
                             const AttentionShape& shape, AttentionSaved& saved) {
  const QkvViews all = split_qkv(qkv_NE, shape);
  at::Tensor out_NF = at::empty({qkv_NE.size(0), shape.num_heads * shape.head_dim}, qkv_NE.options());
  const at::Tensor out_NHD = out_NF.unflatten(-1, {shape.num_heads, shape.head_dim});
  saved.logsumexp.clear();
  for (size_t s = 0; s + 1 < sample_starts.size(); ++s) {
    const int64_t begin = sample_starts[s], length = sample_starts[s + 1] - begin;
    const SampleViews in = sample_views(all, begin, length, shape);
    const auto [out, logsumexp] = at::_scaled_dot_product_flash_attention_for_cpu(
        in.q, in.k, in.v, /*dropout_p=*/0.0, /*is_causal=*/!in.mask.defined(), optional(in.mask));
    queries_KGTD(out_NHD.narrow(0, begin, length), shape).copy_(out);
    saved.logsumexp.push_back(logsumexp);
  }
  return out_NF;
}

at::Tensor attention_backward(const at::Tensor& dout_NF, const at::Tensor& qkv_NE, const at::Tensor& out_NF,
                              const std::vector<int64_t>& sample_starts, const AttentionShape& shape,
                              const AttentionSaved& saved) {
  const QkvViews all = split_qkv(qkv_NE, shape);
  at::Tensor dqkv_NE = at::empty_like(qkv_NE);
  const QkvViews gradients = split_qkv(dqkv_NE, shape);
  const std::vector<int64_t> heads = {shape.num_heads, shape.head_dim};
  const at::Tensor out_NHD = out_NF.unflatten(-1, heads), dout_NHD = dout_NF.unflatten(-1, heads);
  for (size_t s = 0; s + 1 < sample_starts.size(); ++s) {
    const int64_t begin = sample_starts[s], length = sample_starts[s + 1] - begin;
    const SampleViews in = sample_views(all, begin, length, shape);
    const auto [dq, dk, dv] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
        queries_KGTD(dout_NHD.narrow(0, begin, length), shape), in.q, in.k, in.v,
        queries_KGTD(out_NHD.narrow(0, begin, length), shape), saved.logsumexp[s], /*dropout_p=*/0.0,
        /*is_causal=*/!in.mask.defined(), optional(in.mask));
    queries_KGTD(gradients.q_NHD.narrow(0, begin, length), shape).copy_(dq);
    gradients.k_NKD.narrow(0, begin, length).permute({1, 0, 2}).copy_(dk.sum(1));
    gradients.v_NKD.narrow(0, begin, length).permute({1, 0, 2}).copy_(dv.sum(1));
  }
  return dqkv_NE;
}

at::Tensor attention_with_history(const at::Tensor& q_THD, const at::Tensor& k_PKD, const at::Tensor& v_PKD,
                                  const AttentionShape& shape) {
  const int64_t num_queries = q_THD.size(0), num_keys = k_PKD.size(0);
  at::Tensor mask = window_mask(num_queries, num_keys, shape, q_THD.scalar_type());
  if (!mask.defined()) {
    mask = at::full({num_queries, num_keys}, -std::numeric_limits<double>::infinity(), q_THD.options())
               .triu_(num_keys - num_queries + 1);
  }
  const at::Tensor out = at::scaled_dot_product_attention(queries_KGTD(q_THD, shape), keys_KGTD(k_PKD, shape),
                                                          keys_KGTD(v_PKD, shape), mask);
  return out.permute({2, 0, 1, 3}).reshape({num_queries, -1});
}

}  // namespace rankwise
