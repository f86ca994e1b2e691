// Passes over rows of float32 numbers on CPUs that would be several, each through memory, one operator at a time. Need
// gemm_supported().
#pragma once

#include <cstdint>

namespace rankwise {

// SwiGLU on rows [gate | up], each part `width` wide: h = gate * sigmoid(gate) * up, [rows, width].
void swiglu_rows(const float* gate_up, int64_t rows, int64_t width, float* h);
// For dL/dh, turns gate and up into their gradients.
void swiglu_rows_backward(const float* dh, int64_t rows, int64_t width, float* gate_up);

// Each row becomes exp(row - its largest); what that was and the new row's sum.
void exponentiate_rows(float* values, int64_t rows, int64_t columns, float* largest, float* sums);

}  // namespace rankwise
