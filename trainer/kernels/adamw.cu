#include "trainer/kernels/adamw.h"

#include "trainer/kernels/gpu_vectors.cuh"

namespace rankwise {
namespace {

constexpr int kThreads = 256;

__device__ double squared(float x) { return static_cast<double>(x) * static_cast<double>(x); }

// Always kAdamWBlockSums blocks: the order of the sum, and so its bits, does not depend on the device.
__global__ void __launch_bounds__(kThreads) sum_squares(AdamWPreparation p) {
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  constexpr int64_t kStride = static_cast<int64_t>(kAdamWBlockSums) * kThreads;
  const Piece<float>* gradients = pieces(p.gradients);
  const int64_t count = p.count / kLanes<float>;
  double sum = 0;
#pragma unroll 4
  for (int64_t i = first; i < count; i += kStride) {
    const Piece<float> g = gradients[i];
    sum += (squared(g[0]) + squared(g[1])) + (squared(g[2]) + squared(g[3]));
  }
  if (first < p.count % kLanes<float>) sum += squared(p.gradients[count * kLanes<float> + first]);
  sum = block_reduce(sum, 0.0, Sum{});
  if (thread() == 0) p.block_sums[blockIdx.x] = sum;
}

__device__ AdamWScalars scalars_of(const AdamWPreparation& p, const AdamWSettings& s, double sum_of_squares) {
  const double tokens = fmax(1.0, *p.target_tokens), norm = sqrt(sum_of_squares) / tokens;
  if (*p.nonfinite > 0 || !isfinite(norm)) return {.norm = norm, .applied = 0};
  const double clip = s.max_grad_norm <= 0 ? 1.0 : fmin(1.0, s.max_grad_norm / (norm + 1e-6));
  const auto t = static_cast<double>(++*p.steps);
  return {.keep = static_cast<float>(1.0 - s.learning_rate * s.weight_decay),
          .step_size = static_cast<float>(s.learning_rate / (1.0 - pow(s.beta1, t))),
          .inverse_root_correction2 = static_cast<float>(1.0 / sqrt(1.0 - pow(s.beta2, t))),
          .gradient_scale = static_cast<float>(clip / tokens),
          .norm = norm,
          .applied = 1};
}

__global__ void __launch_bounds__(kAdamWBlockSums) prepare(AdamWPreparation p, AdamWSettings settings) {
  const double sum = block_reduce(p.block_sums[threadIdx.x], 0.0, Sum{});
  if (thread() == 0) *p.scalars = scalars_of(p, settings, sum);
}

struct Update {
  AdamWScalars scalars;
  float beta1, other1, beta2, other2, epsilon;

  __device__ Update(const AdamWScalars& found, const AdamWSettings& s)
      : scalars(found),
        beta1(static_cast<float>(s.beta1)),
        other1(static_cast<float>(1.0 - s.beta1)),
        beta2(static_cast<float>(s.beta2)),
        other2(static_cast<float>(1.0 - s.beta2)),
        epsilon(static_cast<float>(s.epsilon)) {}

  __device__ void operator()(float& parameter, float& m, float& v, float gradient) const {
    gradient *= scalars.gradient_scale;
    m = beta1 * m + other1 * gradient;
    v = beta2 * v + other2 * gradient * gradient;
    parameter =
        scalars.keep * parameter - scalars.step_size * m / (sqrtf(v) * scalars.inverse_root_correction2 + epsilon);
  }
};

__device__ void update_one(const AdamWBuffers& b, const Update& update, int64_t i) {
  update(b.parameters[i], b.first_moment[i], b.second_moment[i], b.gradients[i]);
  if (b.compute_copy) static_cast<BFloat16*>(b.compute_copy)[i] = __float2bfloat16_rn(b.parameters[i]);
}

__device__ void update_piece(const AdamWBuffers& b, const Update& update, int64_t i) {
  constexpr int kCount = kLanes<float>;
  const Piece<float> gradient = pieces(b.gradients)[i];
  const Piece<float> old_parameter = pieces(b.parameters)[i], old_m = pieces(b.first_moment)[i],
                     old_v = pieces(b.second_moment)[i];
  float parameter[kCount], m[kCount], v[kCount];
#pragma unroll
  for (int k = 0; k < kCount; ++k) {
    parameter[k] = old_parameter[k];
    m[k] = old_m[k];
    v[k] = old_v[k];
    update(parameter[k], m[k], v[k], gradient[k]);
  }
  pieces(b.parameters)[i] = rounded<float>(parameter);
  pieces(b.first_moment)[i] = rounded<float>(m);
  pieces(b.second_moment)[i] = rounded<float>(v);
  if (b.compute_copy) pieces_of<kCount>(static_cast<BFloat16*>(b.compute_copy))[i] = rounded<BFloat16>(parameter);
}

__global__ void __launch_bounds__(kThreads)
    adamw_step(AdamWBuffers b, const AdamWScalars* scalars, AdamWSettings settings) {
  if (!scalars->applied) return;
  const Update update(*scalars, settings);
  const int64_t count = b.count / kLanes<float>, stride = static_cast<int64_t>(gridDim.x) * kThreads;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  for (int64_t i = first; i < count; i += stride) update_piece(b, update, i);
  if (first < b.count % kLanes<float>) update_one(b, update, count * kLanes<float> + first);
}

}  // namespace
}  // namespace rankwise

int rankwise_adamw_prepare(const rankwise::AdamWPreparation* preparation, const rankwise::AdamWSettings* settings,
                           void* stream) {
  using namespace rankwise;
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  sum_squares<<<kAdamWBlockSums, kThreads, 0, cuda_stream>>>(*preparation);
  prepare<<<1, kAdamWBlockSums, 0, cuda_stream>>>(*preparation, *settings);
  return cudaGetLastError();
}

int rankwise_adamw_step(const rankwise::AdamWBuffers* buffers, const rankwise::AdamWScalars* scalars,
                        const rankwise::AdamWSettings* settings, void* stream) {
  using namespace rankwise;
  constexpr int64_t kMaxBlocks = 4096;  // enough to fill any device; the threads walk over the rest
  constexpr int64_t kNumbersPerBlock = kThreads * kLanes<float>;
  const int64_t blocks = std::min(kMaxBlocks, (buffers->count + kNumbersPerBlock - 1) / kNumbersPerBlock);
  if (blocks == 0) return cudaSuccess;
  adamw_step<<<static_cast<unsigned>(blocks), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(*buffers, scalars,
                                                                                                *settings);
  return cudaGetLastError();
}
