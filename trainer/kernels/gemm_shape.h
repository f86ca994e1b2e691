// What the choice of an algorithm for a product depends on. Without CUDA.
#pragma once

#include <bit>
#include <compare>
#include <cstdint>

#include "base/round_up.h"
#include "trainer/kernels/gpu_gemm.h"

namespace rankwise {

enum class GemmStart { kZeros, kOut, kOther };

// Calls of one shape may share an algorithm. Strides count by how they are aligned: memory is read in pieces of up to
// 16 bytes, or by engines that want as much.
struct GemmShape {
  int64_t rows, columns, depth;  // rows: of a group of batches, see rows_of_choice
  bool float8, left_transposed, right_transposed;
  GemmStart start;
  // Bytes, a power of two up to 256, of the matrix and of each of its rows.
  uint32_t left_alignment, right_alignment, start_alignment, out_alignment;
  auto operator<=>(const GemmShape&) const = default;
};

// Batches have no padding, so that rows differ from step to step: one choice for all up to the next multiple of a
// quarter of the power of two that holds them. 8192: for 6145 to 8192.
inline int64_t rows_of_choice(int64_t rows) {
  const int64_t step = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(rows))) / 4;
  return step == 0 ? rows : round_up(rows, step);
}

inline uint32_t alignment_of(const void* data, int64_t stride_bytes) {
  constexpr uint64_t kMost = 256;
  const uint64_t bits = reinterpret_cast<uintptr_t>(data) | static_cast<uint64_t>(stride_bytes) | kMost;
  return uint32_t{1} << std::countr_zero(bits);
}

inline GemmShape shape_of(const GpuGemm& call) {
  const bool float8 = call.left_scales_N != nullptr;
  const int64_t in_bytes = float8 ? 1 : 2, out_bytes = 2;
  const uint32_t out_alignment = alignment_of(call.out_NM, call.out_stride * out_bytes);
  GemmStart start = call.start_NM == call.out_NM ? GemmStart::kOut : GemmStart::kOther;
  if (call.start_NM == nullptr) start = GemmStart::kZeros;
  return {.rows = rows_of_choice(call.rows),
          .columns = call.columns,
          .depth = call.depth,
          .float8 = float8,
          .left_transposed = call.left_transposed,
          .right_transposed = call.right_transposed,
          .start = start,
          .left_alignment = alignment_of(call.left_NK, call.left_stride * in_bytes),
          .right_alignment = alignment_of(call.right_KM, call.right_stride * in_bytes),
          .start_alignment =
              start == GemmStart::kOther ? alignment_of(call.start_NM, call.start_stride * out_bytes) : out_alignment,
          .out_alignment = out_alignment};
}

}  // namespace rankwise
