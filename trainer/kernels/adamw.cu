#include <cuda_runtime.h>

#include "trainer/kernels/adamw.h"

namespace rankwise {
namespace {

constexpr int kThreads = 256;

__global__ void adamw_step(AdamWBuffers b, AdamWFactors f) {
  const float scale = *b.gradient_scale;
  if (!isfinite(scale)) return;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < b.count; i += stride) {
    const float gradient = b.gradients[i] * scale;
    const float m = f.beta1 * b.first_moment[i] + (1.0f - f.beta1) * gradient;
    const float v = f.beta2 * b.second_moment[i] + (1.0f - f.beta2) * gradient * gradient;
    b.first_moment[i] = m;
    b.second_moment[i] = v;
    b.parameters[i] = f.keep * b.parameters[i] - f.step_size * m / (sqrtf(v) * f.inverse_root_correction2 + f.epsilon);
  }
}

}  // namespace
}  // namespace rankwise

int rankwise_adamw_step(const rankwise::AdamWBuffers* buffers, const rankwise::AdamWFactors* factors, void* stream) {
  constexpr int64_t kMaxBlocks = 4096;  // enough to fill any device; the threads walk over the rest
  const int64_t blocks = (buffers->count + rankwise::kThreads - 1) / rankwise::kThreads;
  if (blocks == 0) return cudaSuccess;
  rankwise::adamw_step<<<static_cast<unsigned>(blocks < kMaxBlocks ? blocks : kMaxBlocks), rankwise::kThreads, 0,
                         static_cast<cudaStream_t>(stream)>>>(*buffers, *factors);
  return cudaGetLastError();
}
