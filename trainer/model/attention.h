// Causal attention inside each sample of a packed batch, with grouped key and value heads.
// Legend: N tokens, S samples, H heads, K key/value heads, D head size.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>

#include "trainer/model/sample_layout.h"

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

// What the GPU kernels leave for backward. CPUs keep nothing and make the probabilities again.
struct AttentionSaved {
  at::Tensor logsumexp;   // in an order of the kernel's own
  bool by_cudnn = false;  // else by FlashAttention:
  at::Tensor seed{}, offset{};
};

// Elements of one matrix of scores: queries go in blocks, so that a few of these are what attention needs beside its
// inputs and outputs, however long a sample is. The constant is what stays in a CPU's cache.
int64_t attention_block_elements(int64_t longest_sample, const AttentionShape& shape);

// Output [N, H * D]. saved may be null (evaluation). CPUs attend to 16-bit inputs in float32, which they are quicker
// at.
at::Tensor attention_forward(const at::Tensor& qkv_NE, const SampleLayout& samples, const AttentionShape& shape,
                             AttentionSaved* saved);
// dL/dqkv in one buffer like qkv, with what forward took, returned and saved.
at::Tensor attention_backward(const at::Tensor& dout_NF, const at::Tensor& qkv_NE, const at::Tensor& out_NF,
                              const AttentionSaved& saved, const SampleLayout& samples, const AttentionShape& shape);

// Who computes both for rows of such a dtype and device: "cuDNN", "FlashAttention", or "blocks of queries" (here).
const char* attention_kernel(const at::TensorOptions& options, const SampleLayout& samples,
                             const AttentionShape& shape);

// Generation: queries of the newest tokens of one sequence over all its keys so far.
// q [T, H, D], k and v [P, K, D] with P >= T; query t sees keys 0 .. P - T + t. Output [T, H * D].
at::Tensor attention_with_history(const at::Tensor& q_THD, const at::Tensor& k_PKD, const at::Tensor& v_PKD,
                                  const AttentionShape& shape);

}  // namespace rankwise
