#include "trainer/model/attention.h"

#include <ATen/ATen.h>
#include <ATen/record_function.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "trainer/kernels/attention.h"
#include "trainer/model/gpu_attention.h"
#include "trainer/model/products.h"

namespace rankwise {
namespace {

// G query heads share a key head, T tokens of one sample.
at::Tensor queries_KGTD(const at::Tensor& x_THD, const AttentionShape& shape) {
  const int64_t per_key = shape.num_heads / shape.num_kv_heads;
  return x_THD.unflatten(1, {shape.num_kv_heads, per_key}).permute({1, 2, 0, 3});
}

at::Tensor keys_KGTD(const at::Tensor& x_TKD, const AttentionShape& shape) {
  const int64_t per_key = shape.num_heads / shape.num_kv_heads;
  return x_TKD.permute({1, 0, 2}).unsqueeze(1).expand({-1, per_key, -1, -1});
}

// Additive mask [T, P], -inf where a query does not see a key; query t stands at position P - T + t.
at::Tensor hidden_keys(int64_t num_queries, int64_t num_keys, const AttentionShape& shape,
                       const at::TensorOptions& options) {
  const at::Tensor all = at::full({num_queries, num_keys}, -std::numeric_limits<double>::infinity(), options);
  const int64_t offset = num_keys - num_queries;
  at::Tensor hidden = all.triu(offset + 1);
  if (shape.sliding_window && num_keys > *shape.sliding_window) hidden.add_(all.tril(offset - *shape.sliding_window));
  return hidden;
}

double score_scale(const AttentionShape& shape) { return 1.0 / std::sqrt(static_cast<double>(shape.head_dim)); }

constexpr int64_t kBlockElements = int64_t{1} << 21;

int64_t block_queries(int64_t length, const AttentionShape& shape) {
  return std::min(length, std::clamp<int64_t>(kBlockElements / (shape.num_heads * length), 16, 256));
}

// Some queries of one sample and the keys that they see. The heads that share a key head lie beside each other, so that
// all of them meet its keys in one product: rows are (query, head of the group).
struct Block {
  int64_t begin, queries;  // rows of the batch
  int64_t key_begin, keys;
  at::Tensor hidden_Q1P;  // -inf where a query does not see a key
};

void for_each_block(const std::vector<int64_t>& sample_starts, const AttentionShape& shape,
                    const at::TensorOptions& options, const std::function<void(const Block&)>& visit) {
  for (size_t s = 0; s + 1 < sample_starts.size(); ++s) {
    const int64_t sample = sample_starts[s], length = sample_starts[s + 1] - sample;
    const int64_t step = length > 0 ? block_queries(length, shape) : 1;
    for (int64_t first = 0; first < length; first += step) {
      const int64_t queries = std::min(step, length - first);
      const int64_t unseen = shape.sliding_window ? std::max<int64_t>(0, first + 1 - *shape.sliding_window) : 0;
      const int64_t keys = first + queries - unseen;
      visit({sample + first, queries, sample + unseen, keys, hidden_keys(queries, keys, shape, options).unsqueeze(1)});
    }
  }
}

// [Q, H, D] to [K, Q G, D].
at::Tensor rows_of_key_heads(const at::Tensor& x_QHD, const AttentionShape& shape) {
  return queries_KGTD(x_QHD, shape).transpose(1, 2).reshape({shape.num_kv_heads, -1, shape.head_dim});
}

// Back into a view [Q, H, D].
void write_rows(const at::Tensor& to_QHD, const at::Tensor& rows_KRD, const AttentionShape& shape) {
  queries_KGTD(to_QHD, shape)
      .transpose(1, 2)
      .copy_(rows_KRD.view({shape.num_kv_heads, to_QHD.size(0), -1, shape.head_dim}));
}

at::Tensor keys_KPD(const at::Tensor& x_NKD, const Block& block) {
  return x_NKD.narrow(0, block.key_begin, block.keys).transpose(0, 1);
}

at::Tensor scaled_queries(const at::Tensor& q_NHD, const Block& block, const AttentionShape& shape) {
  return rows_of_key_heads(q_NHD.narrow(0, block.begin, block.queries), shape).mul(score_scale(shape));
}

at::Tensor probabilities_KRP(const at::Tensor& q_KRD, const at::Tensor& k_NKD, const Block& block,
                             const AttentionShape& shape) {
  const at::Tensor scores = q_KRD.bmm(keys_KPD(k_NKD, block).transpose(1, 2));
  scores.view({shape.num_kv_heads, block.queries, -1, block.keys}).add_(block.hidden_Q1P);
  return at::softmax(scores, -1);
}

AttentionRows rows_of(const at::Tensor& qkv_NE, const std::vector<int64_t>& sample_starts,
                      const AttentionShape& shape) {
  return {qkv_NE.const_data_ptr<float>(),   shape.num_heads, shape.num_kv_heads, shape.head_dim,
          shape.sliding_window.value_or(0), sample_starts};
}

bool is_16_bit(const at::Tensor& tensor) { return tensor.element_size() == 2; }

at::Tensor in_blocks(const at::Tensor& qkv_NE, const SampleLayout& samples, const AttentionShape& shape) {
  RECORD_FUNCTION("rankwise::attention_forward", {});
  at::Tensor out_NF = at::empty({qkv_NE.size(0), shape.num_heads * shape.head_dim}, qkv_NE.options());
  const QkvViews in = split_qkv(qkv_NE, shape);
  const at::Tensor out_NHD = out_NF.unflatten(-1, {shape.num_heads, shape.head_dim});
  for_each_block(samples.starts, shape, qkv_NE.options(), [&](const Block& block) {
    const at::Tensor p_KRP = probabilities_KRP(scaled_queries(in.q_NHD, block, shape), in.k_NKD, block, shape);
    write_rows(out_NHD.narrow(0, block.begin, block.queries), p_KRP.bmm(keys_KPD(in.v_NKD, block)), shape);
  });
  return out_NF;
}

at::Tensor in_blocks_backward(const at::Tensor& dout_NF, const at::Tensor& qkv_NE, const SampleLayout& samples,
                              const AttentionShape& shape) {
  RECORD_FUNCTION("rankwise::attention_backward", {});
  at::Tensor dqkv_NE = at::zeros_like(qkv_NE);
  const QkvViews in = split_qkv(qkv_NE, shape);
  const QkvViews gradients = split_qkv(dqkv_NE, shape);
  const at::Tensor dout_NHD = dout_NF.unflatten(-1, {shape.num_heads, shape.head_dim});
  for_each_block(samples.starts, shape, qkv_NE.options(), [&](const Block& block) {
    const at::Tensor q_KRD = scaled_queries(in.q_NHD, block, shape);
    const at::Tensor p_KRP = probabilities_KRP(q_KRD, in.k_NKD, block, shape);
    const at::Tensor dout_KRD = rows_of_key_heads(dout_NHD.narrow(0, block.begin, block.queries), shape);
    keys_KPD(gradients.v_NKD, block).add_(p_KRP.transpose(1, 2).bmm(dout_KRD));
    const at::Tensor dp_KRP = dout_KRD.bmm(keys_KPD(in.v_NKD, block).transpose(1, 2));
    const at::Tensor dscores_KRP = at::_softmax_backward_data(dp_KRP, p_KRP, -1, p_KRP.scalar_type());
    keys_KPD(gradients.k_NKD, block).add_(dscores_KRP.transpose(1, 2).bmm(q_KRD));
    write_rows(gradients.q_NHD.narrow(0, block.begin, block.queries),
               dscores_KRP.bmm(keys_KPD(in.k_NKD, block)).mul_(score_scale(shape)), shape);
  });
  return dqkv_NE;
}

}  // namespace

QkvViews split_qkv(const at::Tensor& qkv_NE, const AttentionShape& shape) {
  const at::Tensor heads = qkv_NE.unflatten(-1, {-1, shape.head_dim});
  return {heads.narrow(1, 0, shape.num_heads), heads.narrow(1, shape.num_heads, shape.num_kv_heads),
          heads.narrow(1, shape.num_heads + shape.num_kv_heads, shape.num_kv_heads)};
}

int64_t attention_block_elements(int64_t longest_sample, const AttentionShape& shape) {
  return shape.num_heads * block_queries(longest_sample, shape) * longest_sample;
}

at::Tensor attention_forward(const at::Tensor& qkv_NE, const SampleLayout& samples, const AttentionShape& shape,
                             AttentionSaved* saved) {
  if (fits_gpu_attention(qkv_NE, shape)) return gpu_attention_forward(qkv_NE, samples, shape, saved);
  if (is_16_bit(qkv_NE))
    return attention_forward(qkv_NE.to(at::kFloat), samples, shape, saved).to(qkv_NE.scalar_type());
  if (!fits_cpu_kernels(qkv_NE)) return in_blocks(qkv_NE, samples, shape);
  RECORD_FUNCTION("rankwise::attention_forward", {});
  at::Tensor out_NF = at::empty({qkv_NE.size(0), shape.num_heads * shape.head_dim}, qkv_NE.options());
  attention_forward(rows_of(qkv_NE, samples.starts, shape), out_NF.mutable_data_ptr<float>());
  return out_NF;
}

at::Tensor attention_backward(const at::Tensor& dout_NF, const at::Tensor& qkv_NE, const at::Tensor& out_NF,
                              const AttentionSaved& saved, const SampleLayout& samples, const AttentionShape& shape) {
  if (fits_gpu_attention(qkv_NE, shape)) return gpu_attention_backward(dout_NF, qkv_NE, out_NF, saved, samples, shape);
  if (is_16_bit(qkv_NE)) {
    return attention_backward(dout_NF.to(at::kFloat), qkv_NE.to(at::kFloat), out_NF, saved, samples, shape)
        .to(qkv_NE.scalar_type());
  }
  if (!fits_cpu_kernels(qkv_NE)) return in_blocks_backward(dout_NF, qkv_NE, samples, shape);
  RECORD_FUNCTION("rankwise::attention_backward", {});
  at::Tensor dqkv_NE = at::zeros_like(qkv_NE);
  attention_backward(rows_of(qkv_NE, samples.starts, shape), dout_NF.contiguous().const_data_ptr<float>(),
                     dqkv_NE.mutable_data_ptr<float>());
  return dqkv_NE;
}

const char* attention_kernel(const at::TensorOptions& options, const SampleLayout& samples,
                             const AttentionShape& shape) {
  const at::Tensor rows = at::empty({0, shape.qkv_width()}, options);
  return fits_gpu_attention(rows, shape) ? gpu_attention_name(rows, samples, shape) : "blocks of queries";
}

at::Tensor attention_with_history(const at::Tensor& q_THD, const at::Tensor& k_PKD, const at::Tensor& v_PKD,
                                  const AttentionShape& shape) {
  const int64_t num_queries = q_THD.size(0), num_keys = k_PKD.size(0);
  const at::Tensor hidden_TP = hidden_keys(num_queries, num_keys, shape, q_THD.options());
  const at::Tensor out = at::scaled_dot_product_attention(queries_KGTD(q_THD, shape), keys_KGTD(k_PKD, shape),
                                                          keys_KGTD(v_PKD, shape), hidden_TP);
  return out.permute({2, 0, 1, 3}).reshape({num_queries, -1});
}

}  // namespace rankwise
