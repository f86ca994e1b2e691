#include "trainer/weights/float8.h"

#include <ATen/ATen.h>

#include "base/round_up.h"

namespace rankwise {
namespace {

constexpr double kLargest = 448.0;

// A row that is all zeros is scaled by 1.
at::Tensor or_largest(const at::Tensor& maxima) { return maxima.masked_fill(maxima.eq(0), kLargest); }

// The rows that the part touches, zeros where it has nothing of them.
struct Rows {
  at::Tensor values_RI;
  int64_t first, skipped;  // the first row, and what is before the part in it
};

Rows rows_of(const MatrixPart& part) {
  const int64_t skipped = part.begin % part.columns, touched = skipped + part.values.numel();
  const int64_t missing = round_up(touched, part.columns) - touched;
  const at::Tensor padded = at::constant_pad_nd(part.values, {skipped, missing});
  return {padded.view({-1, part.columns}), part.begin / part.columns, skipped};
}

}  // namespace

at::Tensor float8_row_maxima(const MatrixPart& part) {
  const auto [values_RI, first, skipped] = rows_of(part);
  const at::Tensor maxima_O = at::zeros({part.rows}, part.values.options());
  maxima_O.narrow(0, first, values_RI.size(0)).copy_(values_RI.abs().amax(1));
  return maxima_O;
}

at::Tensor float8_codes(const MatrixPart& part, const at::Tensor& maxima_O) {
  const auto [values_RI, first, skipped] = rows_of(part);
  const at::Tensor maxima_R1 = or_largest(maxima_O.narrow(0, first, values_RI.size(0))).unsqueeze(1);
  const at::Tensor inverse_R1 = at::full_like(maxima_R1, kLargest).div_(maxima_R1);
  const at::Tensor codes = values_RI.mul(inverse_R1).clamp_(-kLargest, kLargest).to(at::kFloat8_e4m3fn);
  return codes.view(at::kByte).view({-1}).narrow(0, skipped, part.values.numel());
}

// By a tensor: a CUDA device divides by a number as it multiplies by its inverse, and rounds otherwise than a CPU.
at::Tensor float8_scales(const at::Tensor& maxima_O) {
  return or_largest(maxima_O).div_(at::full_like(maxima_O, kLargest));
}

at::Tensor float8_expand(const at::Tensor& codes_OI, const at::Tensor& scales_O, at::ScalarType dtype) {
  return codes_OI.view(at::kFloat8_e4m3fn).to(at::kFloat).mul_(scales_O.unsqueeze(1)).to(dtype);
}

}  // namespace rankwise
