// GemmKernel for one instruction set, in vectors of Width floats.
#pragma once

#include "trainer/kernels/gemm_kernel.h"
#include "trainer/kernels/vectors.h"

namespace rankwise {
namespace {

using Float8 = Vectors<8>::Float;
using Bits8 = Vectors<8>::Bits;
using Half8 = Vectors<8>::Half;

inline float widen(float value) { return value; }
inline float widen(uint16_t bfloat16) {
  const uint32_t bits = static_cast<uint32_t>(bfloat16) << 16;
  return load<float>(&bits);
}
inline Float8 widen8(const float* from) { return load<Float8>(from); }
inline Float8 widen8(const uint16_t* bfloat16) {
  const Bits8 bits = __builtin_convertvector(load<Half8>(bfloat16), Bits8) << 16;
  return load<Float8>(&bits);
}

// Pairs of elements, then pairs of pairs, then halves change places between rows.
inline void transpose8(Float8 (&rows)[8]) {
  Float8 pairs[8], quads[8];
  for (int r = 0; r < 8; r += 2) {
    pairs[r] = __builtin_shufflevector(rows[r], rows[r + 1], 0, 8, 2, 10, 4, 12, 6, 14);
    pairs[r + 1] = __builtin_shufflevector(rows[r], rows[r + 1], 1, 9, 3, 11, 5, 13, 7, 15);
  }
  for (int r = 0; r < 8; r += (r % 4 == 1 ? 3 : 1)) {
    quads[r] = __builtin_shufflevector(pairs[r], pairs[r + 2], 0, 1, 8, 9, 4, 5, 12, 13);
    quads[r + 2] = __builtin_shufflevector(pairs[r], pairs[r + 2], 2, 3, 10, 11, 6, 7, 14, 15);
  }
  for (int r = 0; r < 4; ++r) {
    rows[r] = __builtin_shufflevector(quads[r], quads[r + 4], 0, 1, 2, 3, 8, 9, 10, 11);
    rows[r + 4] = __builtin_shufflevector(quads[r], quads[r + 4], 4, 5, 6, 7, 12, 13, 14, 15);
  }
}

// Rows of `from` become columns of the panel [depth][Panel].
template <int Panel, typename T>
void pack_rows(const T* from, int64_t stride, int64_t rows, int64_t depth, float* panel) {
  if (rows < Panel) std::memset(panel, 0, sizeof(float) * static_cast<uint64_t>(Panel * depth));
  int64_t row = 0;
  for (; row + 8 <= rows; row += 8) {
    int64_t k = 0;
    for (; k + 8 <= depth; k += 8) {
      Float8 block[8];
      for (int r = 0; r < 8; ++r) block[r] = widen8(from + (row + r) * stride + k);
      transpose8(block);
      for (int r = 0; r < 8; ++r) store(panel + (k + r) * Panel + row, block[r]);
    }
    for (; k < depth; ++k) {
      for (int r = 0; r < 8; ++r) panel[k * Panel + row + r] = widen(from[(row + r) * stride + k]);
    }
  }
  for (; row < rows; ++row) {
    for (int64_t k = 0; k < depth; ++k) panel[k * Panel + row] = widen(from[row * stride + k]);
  }
}

// Rows of `from` become rows of the panel [depth][Panel].
template <int Panel, typename T>
void pack_columns(const T* from, int64_t stride, int64_t columns, int64_t depth, float* panel) {
  for (int64_t k = 0; k < depth; ++k, from += stride, panel += Panel) {
    int64_t j = 0;
    for (; j + 8 <= columns; j += 8) store(panel + j, widen8(from + j));
    for (; j < columns; ++j) panel[j] = widen(from[j]);
    for (; j < Panel; ++j) panel[j] = 0;
  }
}

template <int Panel, typename T>
void pack_right(const T* right, const GemmTerm& term, int64_t depth_begin, int64_t depth, int64_t column_begin,
                int64_t columns, float* panel) {
  right += depth_begin * term.right_depth_stride + column_begin * term.right_column_stride;
  if (term.right_column_stride == 1) {
    pack_columns<Panel>(right, term.right_depth_stride, columns, depth, panel);
  } else {
    pack_rows<Panel>(right, term.right_column_stride, columns, depth, panel);
  }
}

template <int Rows, int Width>
struct Kernel {
  using Vector = typename Vectors<Width>::Float;
  static constexpr int kColumns = 2 * Width;

  static void pack_left(const GemmTerm& term, int64_t row_begin, int64_t rows, int64_t depth_begin, int64_t depth,
                        float* panel) {
    const float* left = term.left + row_begin * term.left_row_stride + depth_begin * term.left_depth_stride;
    const int64_t row_stride = term.left_row_stride;
    if (row_stride == 1) return pack_columns<Rows>(left, term.left_depth_stride, rows, depth, panel);
    if (rows < Rows) return pack_rows<Rows>(left, row_stride, rows, depth, panel);
    for (int64_t k = 0; k < depth; ++k, panel += Rows) {
#pragma GCC unroll 16
      for (int r = 0; r < Rows; ++r) panel[r] = left[r * row_stride + k];
    }
  }

  static void pack_right(const GemmTerm& term, int64_t depth_begin, int64_t depth, int64_t column_begin,
                         int64_t columns, float* panel) {
    if (term.right_is_bfloat16) {
      rankwise::pack_right<kColumns>(static_cast<const uint16_t*>(term.right), term, depth_begin, depth, column_begin,
                                     columns, panel);
    } else {
      rankwise::pack_right<kColumns>(static_cast<const float*>(term.right), term, depth_begin, depth, column_begin,
                                     columns, panel);
    }
  }

  static void multiply(int64_t depth, const float* left, const float* right, const GemmOutput& output) {
    for (int64_t r = 0; r < output.rows; ++r) __builtin_prefetch(output.out + r * output.stride, 1);
    Vector sum[Rows][2] = {};
#pragma GCC unroll 4
    for (int64_t k = 0; k < depth; ++k, left += Rows, right += kColumns) {
      const Vector right0 = load<Vector>(right), right1 = load<Vector>(right + Width);
#pragma GCC unroll 16
      for (int r = 0; r < Rows; ++r) {
        sum[r][0] += left[r] * right0;
        sum[r][1] += left[r] * right1;
      }
    }
    if (output.rows == Rows && output.columns == kColumns) {
      write_whole(sum, output);
    } else {
      write_part(sum, output);
    }
  }

  static inline __attribute__((always_inline)) void write_whole(Vector (&sum)[Rows][2], const GemmOutput& output) {
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
      if (output.start != nullptr) {
        const float* start = output.start + r * output.start_stride;
        sum[r][0] += load<Vector>(start);
        sum[r][1] += load<Vector>(start + Width);
      }
      store(output.out + r * output.stride, sum[r][0]);
      store(output.out + r * output.stride + Width, sum[r][1]);
    }
  }

  static void write_part(const Vector (&sum)[Rows][2], const GemmOutput& output) {
    float tile[Rows][kColumns];
    std::memcpy(tile, sum, sizeof tile);
    for (int64_t r = 0; r < output.rows; ++r) {
      for (int64_t j = 0; j < output.columns; ++j) {
        const float start = output.start != nullptr ? output.start[r * output.start_stride + j] : 0.0f;
        output.out[r * output.stride + j] = start + tile[r][j];
      }
    }
  }
};

template <int Rows, int Width>
constexpr GemmKernel kKernel = {Rows, 2 * Width, Kernel<Rows, Width>::pack_left, Kernel<Rows, Width>::pack_right,
                                Kernel<Rows, Width>::multiply};

}  // namespace
}  // namespace rankwise
