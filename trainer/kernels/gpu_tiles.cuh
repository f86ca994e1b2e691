// Tiles of 16-bit numbers as tensor cores read them, of compute capability 8.0: what PTX calls ldmatrix, movmatrix, mma
// and cp.async. In a 16 x 8 result a thread holds neighbours of two rows: lane / 4 and that + 8, columns 2 (lane % 4)
// and the next. All threads of a warp call together.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

namespace rankwise {

using TileLeft = uint32_t[4];   // 16 x 16
using TileRight = uint32_t[2];  // 16 x 8
using TileSum = float[4];       // 16 x 8

__device__ inline uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// sum += left right
__device__ inline void multiply_tiles(TileSum& sum, const TileLeft& left, uint32_t right0, uint32_t right1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right0), "r"(right1));
}

// Four 8 x 8 tiles; lane l names the place of row l % 8 of tile l / 8, 16 bytes in shared memory.
__device__ inline void read_tiles(uint32_t (&words)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(shared_address(row))
               : "memory");
}

// The same, each of them transposed.
__device__ inline void read_transposed_tiles(uint32_t (&words)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(shared_address(row))
               : "memory");
}

// Of an 8 x 8 tile, two neighbours of a row a thread.
__device__ inline uint32_t transposed_tile(uint32_t word) {
  uint32_t turned;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(turned) : "r"(word));
  return turned;
}

// Starts a copy of 16 bytes from global to shared memory; zeros where not `inside`. Visible to this thread behind
// await_copies, to others behind a barrier after that.
__device__ inline void start_copy(void* to, const void* from, bool inside) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
               "r"(inside ? 16 : 0)
               : "memory");
}

__device__ inline void end_group_of_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Until all but the latest `kLater` groups have arrived.
template <int kLater>
__device__ void await_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kLater) : "memory");
}

__device__ inline uint32_t packed(float first, float second) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(first, second);
  return reinterpret_cast<const uint32_t&>(pair);
}
__device__ inline float first_of(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ inline float second_of(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }

}  // namespace rankwise
