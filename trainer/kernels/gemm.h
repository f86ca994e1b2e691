// Sums of matrix products on CPUs, float32, where the right-hand matrices may be stored as bfloat16 and are widened,
// exactly, while they are packed: a frozen weight stays as small in memory as in its file. The low-rank addition of a
// layer is one more term of the same sum, so that the output is passed over once. Blocking as in Goto and van de Geijn,
// "Anatomy of High-Performance Matrix Multiplication" (2008).
#pragma once

#include <cstdint>
#include <span>

namespace rankwise {

// left right, of [rows, depth] and [depth, columns]. Strides count elements.
struct GemmTerm {
  const float* left;  // of its two strides one is 1 too
  int64_t left_row_stride, left_depth_stride;
  const void* right;  // of its two strides one is 1: a weight [out, in] is read as it lies, in both directions
  bool right_is_bfloat16;
  int64_t right_depth_stride, right_column_stride;
  int64_t depth;
};

// Where the sum goes, and what it starts from.
struct GemmOutput {
  float* out;
  int64_t stride;
  const float* start;    // null: zeros. May be `out` itself
  int64_t start_stride;  // 0: one row for all
  int64_t rows, columns;
};

// True on x86 CPUs with AVX2 and FMA or AVX-512.
bool gemm_supported() noexcept;

// out = start + the sum of the terms (at least one), on as many threads as OpenMP gives. Every element is summed in the
// same order whatever the number of rows and threads. Callers may run side by side.
void gemm(const GemmOutput& output, std::span<const GemmTerm> terms);

}  // namespace rankwise
