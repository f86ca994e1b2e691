// What the row kernels are made of: rows in pieces of 16 bytes, sums over a block, and one block for each row. Blocks
// are whole warps.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "trainer/kernels/gpu_rows.h"

namespace rankwise {

using BFloat16 = __nv_bfloat16;

template <typename T>
inline constexpr int kLanes = 16 / static_cast<int>(sizeof(T));  // numbers in a piece

// Neighbours in a row, which one instruction reads or writes. Kept as words: a 16-bit number that is named by itself
// takes a whole register.
template <typename T, int kCount = kLanes<T>>
struct alignas(kCount * sizeof(T)) Piece {
  uint32_t words[kCount * sizeof(T) / sizeof(uint32_t)];

  __device__ float operator[](int lane) const {
    if constexpr (std::is_same_v<T, float>) return __uint_as_float(words[lane]);
    return __uint_as_float(lane % 2 == 0 ? words[lane / 2] << 16 : words[lane / 2] & 0xffff0000u);
  }
};

template <int kCount, typename T>
__device__ const Piece<T, kCount>* pieces_of(const T* row) {
  return reinterpret_cast<const Piece<T, kCount>*>(row);
}
template <int kCount, typename T>
__device__ Piece<T, kCount>* pieces_of(T* row) {
  return reinterpret_cast<Piece<T, kCount>*>(row);
}
template <typename T>
__device__ auto* pieces(T* row) {
  return pieces_of<kLanes<std::remove_const_t<T>>>(row);
}

template <typename T, int kCount>
__device__ Piece<T, kCount> rounded(const float (&numbers)[kCount]) {
  Piece<T, kCount> piece;
  if constexpr (std::is_same_v<T, float>) {
#pragma unroll
    for (int k = 0; k < kCount; ++k) piece.words[k] = __float_as_uint(numbers[k]);
  } else {
#pragma unroll
    for (int k = 0; k < kCount; k += 2) {
      const __nv_bfloat162 pair = __floats2bfloat162_rn(numbers[k], numbers[k + 1]);  // the first in the lower half
      piece.words[k / 2] = reinterpret_cast<const uint32_t&>(pair);
    }
  }
  return piece;
}

__device__ inline int thread() { return static_cast<int>(threadIdx.x); }
__device__ inline int threads() { return static_cast<int>(blockDim.x); }

struct Sum {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};

__device__ inline float exchange(float value, int distance) { return __shfl_xor_sync(0xffffffffu, value, distance); }
__device__ inline double exchange(double value, int distance) { return __shfl_xor_sync(0xffffffffu, value, distance); }

// `combine` gives the same bits for (a, b) and (b, a), and so every lane gets the same result.
template <typename T, typename Combine>
__device__ T warp_reduce(T value, Combine combine) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) value = combine(value, exchange(value, distance));
  return value;
}

// Over all threads of a block, for all threads of it, in the same order in every run; also a barrier. Once in a kernel:
// a second call would write over what a slow warp still reads.
template <typename T, typename Combine>
__device__ T block_reduce(T value, T neutral, Combine combine) {
  __shared__ T of_warp[32];
  value = warp_reduce(value, combine);
  const int lane = thread() % 32;
  if (lane == 0) of_warp[thread() / 32] = value;
  __syncthreads();
  return warp_reduce(lane < threads() / 32 ? of_warp[lane] : neutral, combine);
}

// Of the current device; 0 where it cannot be asked.
inline int device_attribute(cudaDeviceAttr attribute) {
  int device = 0, value = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return 0;
  return cudaDeviceGetAttribute(&value, attribute, device) == cudaSuccess ? value : 0;
}

// Threads of a block that has `work` pieces to do: rounds of at most `most` threads, evenly filled.
inline unsigned threads_for(int64_t work, int64_t most) {
  const int64_t rounds = std::max<int64_t>(1, (work + most - 1) / most);
  const int64_t a_round = std::max<int64_t>(1, (work + rounds - 1) / rounds);
  return static_cast<unsigned>((a_round + 31) / 32 * 32);
}

inline int64_t lanes(GpuType type) { return type == GpuType::kFloat32 ? kLanes<float> : kLanes<BFloat16>; }

// Starts one block for each row of the call.
template <typename Call>
int start_rows(void (*float_kernel)(Call), void (*bfloat16_kernel)(Call), const Call& call, unsigned threads,
               void* stream) {
  if (call.rows == 0) return cudaSuccess;
  const auto kernel = call.type == GpuType::kFloat32 ? float_kernel : bfloat16_kernel;
  kernel<<<static_cast<unsigned>(call.rows), threads, 0, static_cast<cudaStream_t>(stream)>>>(call);
  return cudaGetLastError();
}

}  // namespace rankwise
