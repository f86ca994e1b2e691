// Causal attention of packed samples on CPUs, float32, straight from rows [q | k | v] and back into such rows: nothing
// is copied or kept, probabilities are made again in the backward pass. Needs gemm_supported().
#pragma once

#include <cstdint>
#include <span>

namespace rankwise {

struct AttentionRows {
  const float* qkv;  // [sample_starts.back()] rows: query heads, key heads, value heads
  int64_t num_heads, num_kv_heads, head_dim;
  int64_t window;                          // a token sees itself and the window - 1 before it; 0: all before it
  std::span<const int64_t> sample_starts;  // [samples + 1]
};

// out: rows of num_heads * head_dim.
void attention_forward(const AttentionRows& rows, float* out);
// dout: rows like out. dqkv: rows like qkv, zeros before.
void attention_backward(const AttentionRows& rows, const float* dout, float* dqkv);

}  // namespace rankwise
