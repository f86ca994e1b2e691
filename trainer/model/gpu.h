// The model's ways to a CUDA device: numbers that it needs there, and the row kernels of trainer/kernels/gpu_rows.h on
// tensors.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "trainer/kernels/gpu_rows.h"

namespace rankwise {

// The values as int64, on any device. To a CUDA device they go through pinned memory, behind what the current stream
// has been given and without waiting for it.
at::Tensor upload(const std::vector<int64_t>& values, at::Device device);

inline constexpr int64_t kGpuRowStep = 8;

// Whether the kernels take this tensor: on a CUDA device, float32 or bfloat16, in one piece, rows of a multiple of
// that.
bool fits_gpu_kernels(const at::Tensor& tensor) noexcept;

GpuType gpu_type(const at::Tensor& tensor);

void check_launch(int code);  // Error unless 0

// On the current stream.
template <typename Call>
void launch(int (*kernel)(const Call*, void*), const Call& call) {
  check_launch(kernel(&call, gpu_row_kernels().current_stream()));
}

}  // namespace rankwise
