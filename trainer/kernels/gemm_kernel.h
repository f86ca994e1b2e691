// What of the GEMM depends on the instruction set: a tile of the output that stays in registers, and the layout of the
// panels that feed it. Compiled once for each instruction set, by kernels_*.cc.
#pragma once

#include <cstdint>

#include "trainer/kernels/gemm.h"

namespace rankwise {

struct GemmKernel {
  int64_t tile_rows, tile_columns;
  // `rows` <= tile_rows of a term's left matrix, from (row_begin, depth_begin) on, to [depth][tile_rows]; zeros for
  // what is missing.
  void (*pack_left)(const GemmTerm& term, int64_t row_begin, int64_t rows, int64_t depth_begin, int64_t depth,
                    float* panel);
  // `columns` <= tile_columns of a term's right matrix, from (depth_begin, column_begin) on, to [depth][tile_columns].
  void (*pack_right)(const GemmTerm& term, int64_t depth_begin, int64_t depth, int64_t column_begin, int64_t columns,
                     float* panel);
  // The tile output.rows x output.columns of output.
  void (*multiply)(int64_t depth, const float* left_panel, const float* right_panel, const GemmOutput& output);
};

const GemmKernel* gemm_kernel() noexcept;  // for this CPU; null where gemm_supported() is false
const GemmKernel& gemm_kernel_avx2() noexcept;
const GemmKernel& gemm_kernel_avx512() noexcept;

}  // namespace rankwise
