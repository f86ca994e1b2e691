#include "trainer/model/gpu.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "base/check.h"

namespace rankwise {

at::Tensor upload(const std::vector<int64_t>& values, at::Device device) {
  const auto options = at::TensorOptions().dtype(at::kLong).pinned_memory(device.is_cuda());
  at::Tensor here = at::empty({static_cast<int64_t>(values.size())}, options);
  std::copy(values.begin(), values.end(), here.mutable_data_ptr<int64_t>());
  return here.to(device, /*non_blocking=*/true);
}

bool fits_gpu_kernels(const at::Tensor& tensor) noexcept {
  return tensor.is_cuda() && (tensor.scalar_type() == at::kFloat || tensor.scalar_type() == at::kBFloat16) &&
         tensor.is_contiguous() && tensor.size(-1) % kGpuRowStep == 0;
}

GpuType gpu_type(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kBFloat16 ? GpuType::kBFloat16 : GpuType::kFloat32;
}

void check_launch(int code) {
  RW_CHECK(code == 0, Error, "a CUDA kernel could not be started: error {} of the CUDA runtime", code);
}

}  // namespace rankwise
