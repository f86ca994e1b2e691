#include "trainer/kernels/float8.h"

#include <cuda_fp8.h>

#include "trainer/kernels/gpu_vectors.cuh"

namespace rankwise {
namespace {

constexpr int kMaxThreads = 512;
constexpr int kOfThread = 8;  // elements at a time: 8 bytes of codes

struct Largest {
  __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

template <typename T>
__device__ void read(const GpuFloat8Rows& call, int64_t row, int place, float (&y)[kOfThread]) {
  const auto piece = pieces_of<kOfThread>(static_cast<const T*>(call.x_NC) + row * call.stride)[place];
#pragma unroll
  for (int k = 0; k < kOfThread; ++k) y[k] = piece[k];
  if (call.factors_C == nullptr) return;
  const auto factors = pieces_of<kOfThread>(call.factors_C)[place];
#pragma unroll
  for (int k = 0; k < kOfThread; ++k) y[k] *= factors[k];
}

// One block a row, which is read twice: the second time from a cache.
template <typename T>
__global__ void __launch_bounds__(kMaxThreads) quantise_rows(GpuFloat8Rows call) {
  const int64_t row = blockIdx.x;
  const int count = static_cast<int>(call.columns / kOfThread);
  float y[kOfThread], largest = 0.0f;
  for (int i = thread(); i < count; i += threads()) {
    read<T>(call, row, i, y);
#pragma unroll
    for (int k = 0; k < kOfThread; ++k) largest = fmaxf(largest, fabsf(y[k]));
  }
  largest = block_reduce(largest, 0.0f, Largest{});
  if (largest == 0.0f) largest = kFloat8Largest;
  const float inverse = __fdiv_rn(kFloat8Largest, largest);
  if (thread() == 0) call.scales_N[row] = __fdiv_rn(largest, kFloat8Largest);
  auto* codes = reinterpret_cast<uint2*>(static_cast<uint8_t*>(call.codes_NC) + row * call.columns);
  for (int i = thread(); i < count; i += threads()) {
    read<T>(call, row, i, y);
    uint32_t pairs[kOfThread / 2];
#pragma unroll
    for (int k = 0; k < kOfThread; k += 2) {
      const float2 pair = {y[k] * inverse, y[k + 1] * inverse};
      pairs[k / 2] = __nv_cvt_float2_to_fp8x2(pair, __NV_SATFINITE, __NV_E4M3);
    }
    codes[i] = {pairs[0] | pairs[1] << 16, pairs[2] | pairs[3] << 16};
  }
}

constexpr int kTile = 128;  // bytes square
constexpr int kTileWords = kTile / 4;
constexpr int kTransposeThreads = 256, kWarps = kTransposeThreads / 32;

// Word k of the result: byte k of each of the four words.
__device__ void transpose_bytes(uint32_t (&words)[4]) {
  const uint32_t low0 = __byte_perm(words[0], words[1], 0x5140), low1 = __byte_perm(words[2], words[3], 0x5140);
  const uint32_t high0 = __byte_perm(words[0], words[1], 0x7362), high1 = __byte_perm(words[2], words[3], 0x7362);
  words[0] = __byte_perm(low0, low1, 0x5410);
  words[1] = __byte_perm(low0, low1, 0x7632);
  words[2] = __byte_perm(high0, high1, 0x5410);
  words[3] = __byte_perm(high0, high1, 0x7632);
}

// A tile's words change places in shared memory, where word w of line l lies at w ^ (l / 4): a warp that writes one
// word into each fourth line, and one that reads a line, find every bank once.
__global__ void __launch_bounds__(kTransposeThreads) transpose(GpuByteTranspose call) {
  __shared__ uint32_t turned[kTile][kTileWords];
  const int64_t row_begin = static_cast<int64_t>(blockIdx.y) * kTile, column_begin = int64_t{blockIdx.x} * kTile;
  const int warp = thread() / 32, lane = thread() % 32;
  const auto* in = static_cast<const uint32_t*>(call.in_NC);
  auto* out = static_cast<uint32_t*>(call.out_CN);
  const int64_t in_words = call.columns / 4, out_words = call.rows / 4;
  uint32_t words[kTileWords / kWarps][4] = {};
#pragma unroll
  for (int j = 0; j < kTileWords / kWarps; ++j) {
    const int64_t row = row_begin + 4 * (warp + kWarps * j);
    if (row >= call.rows || column_begin + 4 * lane >= call.columns) continue;
#pragma unroll
    for (int k = 0; k < 4; ++k) words[j][k] = in[(row + k) * in_words + column_begin / 4 + lane];
  }
#pragma unroll
  for (int j = 0; j < kTileWords / kWarps; ++j) {
    transpose_bytes(words[j]);
#pragma unroll
    for (int k = 0; k < 4; ++k) turned[4 * lane + k][(warp + kWarps * j) ^ lane] = words[j][k];
  }
  __syncthreads();
  if (row_begin + 4 * lane >= call.rows) return;
#pragma unroll
  for (int j = 0; j < kTile / kWarps; ++j) {
    const int line = warp + kWarps * j;
    if (column_begin + line >= call.columns) return;
    out[(column_begin + line) * out_words + row_begin / 4 + lane] = turned[line][lane ^ (line / 4)];
  }
}

}  // namespace
}  // namespace rankwise

int rankwise_float8_rows(const rankwise::GpuFloat8Rows* call, void* stream) {
  using namespace rankwise;
  return start_rows(quantise_rows<float>, quantise_rows<BFloat16>, *call,
                    threads_for(call->columns / kOfThread, kMaxThreads), stream);
}

int rankwise_transpose_bytes(const rankwise::GpuByteTranspose* call, void* stream) {
  using namespace rankwise;
  if (call->rows == 0 || call->columns == 0) return cudaSuccess;
  const dim3 tiles(static_cast<unsigned>((call->columns + kTile - 1) / kTile),
                   static_cast<unsigned>((call->rows + kTile - 1) / kTile));
  transpose<<<tiles, kTransposeThreads, 0, static_cast<cudaStream_t>(stream)>>>(*call);
  return cudaGetLastError();
}
