// Causal attention inside each sample, with grouped key and value heads, on a CUDA device by cuDNN: bfloat16, sums and
// statistics in float32. Compiled into librankwise_cuda.so; trainer/model/attention.h has the meaning and the
// reference. All pointers are device memory, 16-byte aligned, of matrices that are row-major without gaps. Legend: N
// rows, S samples, T tokens of a sample, H heads, K key/value heads, D head size, E = (H + 2 K) D, F = H D.
#pragma once

#include <compare>
#include <cstdint>

namespace rankwise {

// What a plan is compiled for. A plan of packed samples serves every batch within its bounds.
struct GpuAttentionShape {
  int64_t heads, kv_heads, head_dim;
  int64_t window;      // a token sees itself and the window - 1 before it; 0: all before it
  int64_t samples;     // packed: at most
  int64_t longest;     // tokens of every sample; packed: at most
  int64_t rows;        // of all samples; packed: at most
  bool packed;         // samples of any length
  bool deterministic;  // equal calls give equal bits

  // Packed, gradients of keys and values are two matrices of their own [N, K D] where heads share them: cuDNN sums over
  // those heads out of float32 buffers whose rows are as wide as these, times the heads that share one.
  bool separate_kv_gradients() const { return packed && heads != kv_heads; }
  auto operator<=>(const GpuAttentionShape&) const = default;
};

// Belongs to the thread that asked for it and to the device that was current then, and lasts as long as the thread.
struct GpuAttentionPlan {
  const char* refusal;  // null: cuDNN serves this shape; else why it does not
  int64_t forward_workspace_bytes;
  int64_t backward_workspace_bytes;  // once the plan was asked for with its backward pass
};

// Where the packed samples lie: int32 for all shape.samples of a plan. Those that a batch does not have are empty.
struct GpuSampleOffsets {
  const int32_t* lengths_S;
  // [S + 1] First element of each sample, then the end, in matrices whose rows have E, F, K D and H elements.
  const int32_t *rows_E, *rows_F, *rows_KD, *rows_H;
};

struct GpuAttentionForward {
  const GpuAttentionPlan* plan;  // one that cuDNN serves
  GpuSampleOffsets offsets;      // not read unless packed
  const void* qkv_NE;            // rows [q | k | v]
  void* out_NF;                  // written
  float* logsumexp;              // written: [S, H, T]; packed: [N, H]
  void* workspace;
};

struct GpuAttentionBackward {
  const GpuAttentionPlan* plan;
  GpuSampleOffsets offsets;
  const void* dout_NF;
  const void* qkv_NE;
  const void* out_NF;
  const float* logsumexp;
  void *dq, *dk, *dv;  // written: first elements of rows as qkv's, but for separate_kv_gradients()
  void* workspace;
};

}  // namespace rankwise

extern "C" {
// The plan of this thread and the current device. Each direction is compiled when it is first asked for, which keeps a
// CPU busy for up to a second. Null for a failure.
const rankwise::GpuAttentionPlan* rankwise_attention_plan(const rankwise::GpuAttentionShape* shape, bool with_backward);

// Start their work on `stream` (a cudaStream_t), on the thread and device of the plan. Return 0, or 1 for a failure.
int rankwise_attention_forward(const rankwise::GpuAttentionForward* call, void* stream);
int rankwise_attention_backward(const rankwise::GpuAttentionBackward* call, void* stream);
const char* rankwise_attention_failure();  // what the last failure on this thread was
}
