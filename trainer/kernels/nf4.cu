#include "trainer/kernels/nf4.h"

#include "trainer/kernels/gpu_vectors.cuh"

namespace rankwise {
namespace {

constexpr int kThreads = 256;
constexpr int kOfThread = 8;  // elements at a time: a word of codes, 16 or 32 bytes of output
constexpr int kRounds = kNf4SpanElements / (kThreads * kOfThread);
static_assert(kThreads == kNf4BlocksOfSpan, "each thread expands one maximum");

__device__ const std::array<float, 16> values_of_codes = kNf4Values;
__device__ const std::array<float, 256> values_of_maxima = kNf4Maxima;

// One block a span. 16 values lie in 16 banks: whatever the codes, lookups do not wait for one another. Products and
// sums are rounded one by one, as on CPUs.
template <typename T>
__global__ void __launch_bounds__(kThreads) expand(GpuNf4Expansion call) {
  __shared__ float values[16], maxima[kNf4BlocksOfSpan];
  const Nf4Span& span = call.spans[blockIdx.x];
  const int64_t begin = blockIdx.x * kNf4SpanElements;
  if (thread() < 16) values[thread()] = values_of_codes[thread()];
  maxima[thread()] = __fadd_rn(__fmul_rn(values_of_maxima[span.maxima[thread()]], span.scale), span.offset);
  __syncthreads();
  const auto* codes = reinterpret_cast<const uint32_t*>(span.codes);
  uint32_t words[kRounds];
#pragma unroll
  for (int round = 0; round < kRounds; ++round) words[round] = codes[round * kThreads + thread()];
  auto* out = pieces_of<kOfThread>(static_cast<T*>(call.out) + begin);
#pragma unroll
  for (int round = 0; round < kRounds; ++round) {
    const int place = round * kThreads + thread();
    if (begin + place * kOfThread >= call.count) return;
    const float maximum = maxima[place * kOfThread / kNf4Block];
    float expanded[kOfThread];
#pragma unroll
    for (int k = 0; k < kOfThread; ++k) {
      const uint32_t code = words[round] >> (8 * (k / 2) + (k % 2 == 0 ? 4 : 0)) & 15;
      expanded[k] = __fmul_rn(values[code], maximum);
    }
    out[place] = rounded<T>(expanded);
  }
}

}  // namespace
}  // namespace rankwise

int rankwise_expand_nf4(const rankwise::GpuNf4Expansion* call, void* stream) {
  using namespace rankwise;
  if (call->count == 0) return cudaSuccess;
  const auto spans = static_cast<unsigned>((call->count + kNf4SpanElements - 1) / kNf4SpanElements);
  const auto kernel = call->type == GpuType::kFloat32 ? expand<float> : expand<BFloat16>;
  kernel<<<spans, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(*call);
  return cudaGetLastError();
}
