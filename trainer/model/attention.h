// Causal attention inside each sample of a packed batch, with grouped key and value heads.
// Legend: N tokens, S samples, H heads, K key/value heads, D head size.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

namespace rankwise {

struct AttentionShape {
  int64_t num_heads;
  int64_t num_kv_heads;
  int64_t head_dim;
  std::optional<int64_t> sliding_window;  // a token sees itself and the window - 1 before it
  int64_t qkv_width() const { return (num_heads + 2 * num_kv_heads) * head_dim; }
};

// What the backward pass needs beside q, k, v and the output: the log-sum-exp of each sample's scores.
struct AttentionSaved {
  std::vector<at::Tensor> logsumexp;  // [S], each as the kernel made it
};

// The three parts of a row [q | k | v], as views [N, H or K, D].
struct QkvViews {
  at::Tensor q_NHD, k_NKD, v_NKD;
};
QkvViews split_qkv(const at::Tensor& qkv_NE, const AttentionShape& shape);

// Output [N, H * D]. sample_starts: [S + 1].
at::Tensor attention_forward(const at::Tensor& qkv_NE, const std::vector<int64_t>& sample_starts,
                             const AttentionShape& shape, AttentionSaved& saved);
// dL/dqkv in one buffer like qkv.
at::Tensor attention_backward(const at::Tensor& dout_NF, const at::Tensor& qkv_NE, const at::Tensor& out_NF,
                              const std::vector<int64_t>& sample_starts, const AttentionShape& shape,
                              const AttentionSaved& saved);

// Generation: queries of the newest tokens of one sequence over all its keys so far.
// q [T, H, D], k and v [P, K, D] with P >= T; query t sees keys 0 .. P - T + t. Output [T, H * D].
at::Tensor attention_with_history(const at::Tensor& q_THD, const at::Tensor& k_PKD, const at::Tensor& v_PKD,
                                  const AttentionShape& shape);

}  // namespace rankwise
