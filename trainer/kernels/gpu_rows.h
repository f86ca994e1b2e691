// What a model does to rows on a CUDA device between its matrix products, each in one pass over memory. Compiled into
// librankwise_cuda.so; CPUs, and the tests as a reference, use the tensor expressions in trainer/model/.
// All pointers are device memory, 16-byte aligned; matrices are row-major without gaps unless a stride is named, widths
// are multiples of 8 elements. Arithmetic is float32, rounded once when stored. Every function starts its work on
// `stream` (a cudaStream_t) and returns a cudaError_t, 0 for success.
// Legend: N rows, C channels, H heads, D head size, I intermediate size, V vocabulary.
#pragma once

#include <cstdint>

namespace rankwise {

enum class GpuType { kFloat32, kBFloat16 };  // of the pointers that are void

// normed = weight * round(x * rstd), rstd = 1 / sqrt(mean(x^2) + eps), as LlamaRMSNorm rounds.
struct GpuRmsNorm {
  GpuType type;
  const void* x_NC;
  const void* weight_C;
  void* normed_NC;
  float* rstd_N;  // written
  int64_t rows, columns;
  float eps;
};

// With n = x * rstd and g = dnormed * weight: gradient += rstd * (g - n * mean(g * n)), or = where not `accumulate`.
struct GpuRmsNormBackward {
  GpuType type;
  const void* dnormed_NC;
  const void* x_NC;
  const void* weight_C;
  const float* rstd_N;
  void* gradient_NC;
  int64_t rows, columns;
  bool accumulate;
};

// As GpuRmsNorm, of each of `heads` neighbouring heads of a row by itself and in place (Qwen3's norms of q and k).
// stride: elements from row to row. A head is at most 1,024 bytes.
struct GpuHeadNorm {
  GpuType type;
  void* x_NHD;
  const void* weight_D;
  void* before_NHD;  // gets a copy of x as it was; null: none
  int64_t rows, stride, before_stride, heads, head_dim;
  float eps;
};

// dL/dx in place of dL/d(normed). 1 / sqrt(mean(x^2) + eps) is made anew.
struct GpuHeadNormBackward {
  GpuType type;
  void* gradient_NHD;
  const void* x_NHD;
  const void* weight_D;
  int64_t rows, stride, x_stride, heads, head_dim;
  float eps;
};

// Rotates the first `heads` heads of each row in place: (a, b) -> (a cos - b sin, b cos + a sin) for the halves a, b of
// a head; `inverse` turns the other way. stride: elements from row to row of x.
struct GpuRope {
  GpuType type;
  void* x_NHD;
  const void* cos_ND;  // [N, D / 2]
  const void* sin_ND;
  int64_t rows, stride, heads, head_dim;
  bool inverse;
};

// h = silu(gate) * up, of [N, 2 I] = gate beside up.
struct GpuSwiglu {
  GpuType type;
  const void* gate_up_NI2;
  void* h_NI;
  int64_t rows, width;  // width: I
};

// Turns gate and up into their gradients, in place.
struct GpuSwigluBackward {
  GpuType type;
  const void* dh_NI;
  void* gate_up_NI2;
  int64_t rows, width;
};

// loss[n] = logsumexp(logits[n]) - logits[n][target[n]]; with_gradient: logits become softmax - one-hot(target).
struct GpuCrossEntropy {
  GpuType type;
  void* logits_NV;
  const int64_t* targets_N;
  float* loss_N;
  int64_t rows, columns;
  bool with_gradient;
};

// row_keys[m][n] = random64(random64(mask_keys[m], samples[n]), positions[n]) (base/counter_random.h).
struct GpuDropoutRowKeys {
  const uint64_t* mask_keys_M;
  const int64_t *samples_N, *positions_N;
  uint64_t* row_keys_MN;
  int64_t masks, rows;
};

// mask[n][c] = 0 where the upper 32 bits of random64(row_keys[n], c) are below `threshold`, else `kept`.
struct GpuDropout {
  const uint64_t* row_keys_N;
  uint64_t threshold;
  float kept;
};
struct GpuDropoutMask {
  GpuType type;
  GpuDropout dropout;
  void* mask_NC;
  int64_t rows, columns;
};

}  // namespace rankwise

extern "C" {
int rankwise_rms_norm(const rankwise::GpuRmsNorm* call, void* stream);
int rankwise_rms_norm_backward(const rankwise::GpuRmsNormBackward* call, void* stream);
int rankwise_head_norm(const rankwise::GpuHeadNorm* call, void* stream);
int rankwise_head_norm_backward(const rankwise::GpuHeadNormBackward* call, void* stream);
int rankwise_rope(const rankwise::GpuRope* call, void* stream);
int rankwise_swiglu(const rankwise::GpuSwiglu* call, void* stream);
int rankwise_swiglu_backward(const rankwise::GpuSwigluBackward* call, void* stream);
int rankwise_cross_entropy(const rankwise::GpuCrossEntropy* call, void* stream);
int rankwise_dropout_row_keys(const rankwise::GpuDropoutRowKeys* call, void* stream);
int rankwise_dropout_mask(const rankwise::GpuDropoutMask* call, void* stream);
void* rankwise_current_stream();  // LibTorch's, of this thread; from comms/
}

namespace rankwise {

// The functions above, for a program that is not linked to them.
struct GpuRowKernels {
  decltype(rankwise_current_stream)* current_stream;
  decltype(rankwise_rms_norm)* rms_norm;
  decltype(rankwise_rms_norm_backward)* rms_norm_backward;
  decltype(rankwise_head_norm)* head_norm;
  decltype(rankwise_head_norm_backward)* head_norm_backward;
  decltype(rankwise_rope)* rope;
  decltype(rankwise_swiglu)* swiglu;
  decltype(rankwise_swiglu_backward)* swiglu_backward;
  decltype(rankwise_cross_entropy)* cross_entropy;
  decltype(rankwise_dropout_row_keys)* dropout_row_keys;
  decltype(rankwise_dropout_mask)* dropout_mask;
};

// Loads librankwise_cuda.so at the first call. Throws UnavailableError where it is not there.
const GpuRowKernels& gpu_row_kernels();

}  // namespace rankwise
