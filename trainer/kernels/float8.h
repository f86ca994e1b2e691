// What products in float8 (e4m3, without infinities, 448 the largest) need beside the GEMM, on a CUDA device. Compiled
// into librankwise_cuda.so; the tests' reference are tensor expressions. Pointers are device memory, 16-byte aligned;
// columns and strides are multiples of 16.
// Legend: N rows, C columns.
#pragma once

#include <cstdint>

#include "trainer/kernels/gpu_rows.h"

namespace rankwise {

inline constexpr float kFloat8Largest = 448.0f;

// With y = x * factors (or x): scales[n] = max |y[n]| / 448, 1 for a row of zeros; codes[n] = y[n] / scales[n], rounded
// to nearest. Arithmetic is float32.
struct GpuFloat8Rows {
  GpuType type;
  const void* x_NC;
  const float* factors_C;  // may be null
  void* codes_NC;
  float* scales_N;
  int64_t rows, columns, stride;  // stride: elements from row to row of x
};

// out[c][n] = in[n][c], bytes.
struct GpuByteTranspose {
  const void* in_NC;
  void* out_CN;
  int64_t rows, columns;
};

}  // namespace rankwise

// Each starts its work on `stream` (a cudaStream_t) and returns a cudaError_t, 0 for success.
extern "C" {
int rankwise_float8_rows(const rankwise::GpuFloat8Rows* call, void* stream);
int rankwise_transpose_bytes(const rankwise::GpuByteTranspose* call, void* stream);
}
