// What of the passes over rows depends on the instruction set. The exponential is within 2 units in the last place;
// arguments beyond float32's range are taken for its ends.
#pragma once

#include <cstdint>

namespace rankwise {

struct RowExponentials {
  float largest;  // of the row before
  float sum;      // of the row after
};

struct RowKernels {
  // row = exp(scale * (row - largest)); n > 0.
  RowExponentials (*exponentiate)(float* row, int64_t n, float scale);
  // The gradient of a softmax: gradient = scale * p * (gradient - sum(p * gradient)).
  void (*softmax_backward)(const float* p, float* gradient, int64_t n, float scale);
  // SwiGLU: h = gate * sigmoid(gate) * up.
  void (*swiglu)(const float* gate, const float* up, float* h, int64_t n);
  // For dL/dh, turns gate and up into their gradients.
  void (*swiglu_backward)(const float* dh, float* gate, float* up, int64_t n);
};

const RowKernels* row_kernels() noexcept;  // for this CPU; null where gemm_supported() is false
const RowKernels& row_kernels_avx2() noexcept;
const RowKernels& row_kernels_avx512() noexcept;

}  // namespace rankwise
