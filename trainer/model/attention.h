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

// The three parts of a row [q | k | v], as views [N, H or K, D].
struct QkvViews {
  at::Tensor q_NHD, k_NKD, v_NKD;
};
QkvViews split_qkv(const at::Tensor& qkv_NE, const AttentionShape& shape);

// Elements of one matrix of scores: queries go in blocks, so that a few of these are what attention needs beside its
// inputs and outputs, however long a sample is. The constant is what stays in a CPU's cache.
int64_t attention_block_elements(int64_t longest_sample, const AttentionShape& shape);

// Output [N, H * D]. sample_starts: [S + 1]. Nothing else is kept for the backward pass, which makes the probabilities
// again. 16-bit inputs are attended to in float32, which CPUs are quicker at.
at::Tensor attention_forward(const at::Tensor& qkv_NE, const std::vector<int64_t>& sample_starts,
                             const AttentionShape& shape);
// dL/dqkv in one buffer like qkv.
at::Tensor attention_backward(const at::Tensor& dout_NF, const at::Tensor& qkv_NE,
                              const std::vector<int64_t>& sample_starts, const AttentionShape& shape);

// Generation: queries of the newest tokens of one sequence over all its keys so far.
// q [T, H, D], k and v [P, K, D] with P >= T; query t sees keys 0 .. P - T + t. Output [T, H * D].
at::Tensor attention_with_history(const at::Tensor& q_THD, const at::Tensor& k_PKD, const at::Tensor& v_PKD,
                                  const AttentionShape& shape);

}  // namespace rankwise
