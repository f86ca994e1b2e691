// Low-rank pairs on a CUDA device, each wide matrix read once: around a linear layer, and inside SwiGLU, where gate, up
// and down have pairs whose terms and sums are made in the pass that the wide matrices go through anyway. Compiled into
// librankwise_cuda.so; the reference is LinearGroup, with swiglu() (trainer/model/). bfloat16 alone; tensor cores
// multiply, in float32 sums whose order depends on the shape and the number of multiprocessors, so that equal calls
// give equal bits. Pointers are device memory, 16-byte aligned, matrices row-major without gaps. Legend: N rows, O
// outputs, I intermediate size, R rank of a pair.
#pragma once

#include <cstdint>

#include "trainer/kernels/gpu_rows.h"

namespace rankwise {

inline constexpr int kLowRankSharedBytes = 216'064;  // of a block, at most: an H100 has them, and a B200
inline constexpr int64_t kLowRankWidthStep = 32;     // I and a slice's columns are multiples of it

inline bool fits_low_rank_kernels(int64_t rank) { return rank == 8 || rank == 16; }

// What follows from these is the most that a call needs of scratch.
inline constexpr int64_t kLowRankStripe = 512;      // columns of a block
inline constexpr int64_t kLowRankMostRegions = 16;  // of rows, for one stripe
inline constexpr int64_t kLowRankFilled = 16;       // smaller ranks are filled up with zeros

constexpr int64_t low_rank_stripes(int64_t width) { return (width + kLowRankStripe - 1) / kLowRankStripe; }

constexpr int64_t low_rank_scratch_bytes(int64_t rows, int64_t width, int64_t regions) {
  return (2 * low_rank_stripes(width) * rows + 3 * regions * width) * kLowRankFilled * int64_t{sizeof(float)};
}

// What both passes read. gate = gate_up's left half + gate_scaling * s_gate b_gate^T, and up likewise.
struct GpuLowRankMlp {
  void* gate_up_NI2;          // x W^T, without low-rank terms; backward turns it into dgate | dup
  const void* s_gate_up_NR2;  // [N, 2 R]: gate's, then up's
  const void *b_gate_IR, *b_up_IR;
  const void* a_down_RI;
  int64_t rows, width, rank;  // width: I
  float gate_scaling, up_scaling;
  GpuDropout dropout;  // of down's input; row_keys_N null: none
  float* scratch;      // of rankwise_low_rank_scratch_bytes
};

// h = silu(gate) * up, s_down = (mask * h) a_down^T.
struct GpuLowRankSwiglu {
  GpuLowRankMlp mlp;
  void* h_NI;
  void* s_down_NR;
};

// With dh + mask * (ds_down a_down) the gradient of h: gate and up's gradients in place; what follows from them,
//   ds_gate = gate_scaling * dgate b_gate,  grad b_gate += gate_scaling * dgate^T s_gate  (up's likewise),
//   grad a_down += ds_down^T (mask * h).
struct GpuLowRankSwigluBackward {
  GpuLowRankMlp mlp;
  const void* dh_NI;
  const void* ds_down_NR;
  void* ds_gate_up_NR2;  // written
  float *grad_b_gate_IR, *grad_b_up_IR, *grad_a_down_RI;
};

inline constexpr int kLowRankMostSlices = 3;

// One pair of a group of linear layers: some neighbouring columns of the wide matrix, some of S or dS.
struct GpuLowRankSlice {
  int64_t begin, columns;
  int64_t rank_begin, rank;  // rank: at most 16, a multiple of 8
  const void* right;         // b [columns, R], or a [R, columns]
  float scaling;
  float* grad_b_OR;  // of the gradient's call alone
};

// out = starts[0] + starts[1] + the slices' scaling * s b^T; with right_is_a: starts[0] + scaling * s a, and all slices
// have all columns. A start may be null (the second where the first is), may be out, and may be one row for all
// (stride 0).
struct GpuLowRankAdd {
  void* out_NO;
  const void* starts_NO[2];
  int64_t start_strides[2];  // elements from row to row
  const void* s_NR;          // of all slices
  int64_t rows, columns, total_rank;
  bool right_is_a;
  int num_slices;
  GpuLowRankSlice slices[kLowRankMostSlices];
};

// Of each slice: ds = scaling * dy b, grad b += scaling * dy^T s.
struct GpuLowRankGradient {
  const void* dy_NO;
  const void* s_NR;
  void* ds_NR;  // written
  int64_t rows, columns, total_rank;
  int num_slices;
  GpuLowRankSlice slices[kLowRankMostSlices];
  float* scratch;  // of rankwise_low_rank_gradient_scratch_bytes
};

}  // namespace rankwise

// Each starts its work on `stream` (a cudaStream_t) and returns a cudaError_t, 0 for success.
extern "C" {
int rankwise_low_rank_swiglu(const rankwise::GpuLowRankSwiglu* call, void* stream);
int rankwise_low_rank_swiglu_backward(const rankwise::GpuLowRankSwigluBackward* call, void* stream);
// Whether the current device has kLowRankSharedBytes.
bool rankwise_low_rank_fits_device();
// For either pass, on the current device.
int64_t rankwise_low_rank_scratch_bytes(int64_t rows, int64_t width);
int rankwise_low_rank_add(const rankwise::GpuLowRankAdd* call, void* stream);
int rankwise_low_rank_gradient(const rankwise::GpuLowRankGradient* call, void* stream);
int64_t rankwise_low_rank_gradient_scratch_bytes(const rankwise::GpuLowRankGradient* call);
}
