#include "trainer/kernels/rows.h"

#include "trainer/kernels/row_kernels.h"

namespace rankwise {

void swiglu_rows(const float* gate_up, int64_t rows, int64_t width, float* h) {
  const auto* kernels = row_kernels();
#pragma omp parallel for
  for (int64_t r = 0; r < rows; ++r) {
    const float* gate = gate_up + r * 2 * width;
    kernels->swiglu(gate, gate + width, h + r * width, width);
  }
}

void swiglu_rows_backward(const float* dh, int64_t rows, int64_t width, float* gate_up) {
  const auto* kernels = row_kernels();
#pragma omp parallel for
  for (int64_t r = 0; r < rows; ++r) {
    float* gate = gate_up + r * 2 * width;
    kernels->swiglu_backward(dh + r * width, gate, gate + width, width);
  }
}

void exponentiate_rows(float* values, int64_t rows, int64_t columns, float* largest, float* sums) {
  const auto* kernels = row_kernels();
#pragma omp parallel for
  for (int64_t r = 0; r < rows; ++r) {
    const auto result = kernels->exponentiate(values + r * columns, columns, 1.0f);
    largest[r] = result.largest;
    sums[r] = result.sum;
  }
}

}  // namespace rankwise
