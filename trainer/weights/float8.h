// Matrices [out, in] in float8 (e4m3: sign, 4 bits of exponent, 3 of fraction; the largest number is 448), with a
// float32 scale for each row: code = value * (448 / largest of the row), rounded to nearest; value = code * (largest /
// 448). On any device and for any part of a matrix: only the largest of a row is of all of it, and so there are two
// steps, with a maximum over the ranks between them.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace rankwise {

// Elements [begin, begin + values.numel()) of a matrix, counted over its rows; values are float32 and flat.
struct MatrixPart {
  at::Tensor values;
  int64_t begin;
  int64_t rows, columns;  // of the whole matrix
};

at::Tensor float8_row_maxima(const MatrixPart& part);                         // [rows], 0 where it has nothing of a row
at::Tensor float8_codes(const MatrixPart& part, const at::Tensor& maxima_O);  // bytes, flat
at::Tensor float8_scales(const at::Tensor& maxima_O);                         // 1 for a row of zeros

// codes: bytes [rows, columns]. Multiplied in float32, rounded to `dtype` once.
at::Tensor float8_expand(const at::Tensor& codes_OI, const at::Tensor& scales_O, at::ScalarType dtype);

}  // namespace rankwise
