// Matrices to 4-bit NormalFloat and back (trainer/kernels/nf4.h has the format and its source), on any device and any
// part of a matrix: only the offset is of all of it, and so there are two steps, with a sum over the ranks between
// them. Codes and maxima are the nearest, as bitsandbytes' CUDA kernels have them. Where its offset is a float32 mean,
// whose last bit depends on threads and device, ours is the float64 mean, rounded.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace rankwise {

// Writes the codes of `values` (float32, flat, at most what the spans hold) into spans [S, 8464] (bytes), and zeros
// behind them. Returns the blocks' maxima, float32, without those of the padding.
at::Tensor nf4_pack_codes(const at::Tensor& values, const at::Tensor& spans_SB);

// Writes those maxima, quantised around `offset` (a float32 scalar on their device): the mean of all of the matrix.
void nf4_pack_maxima(const at::Tensor& maxima, const at::Tensor& offset, const at::Tensor& spans_SB);

// The first `count` elements of spans (flat bytes), rounded from float32 to `dtype` once.
at::Tensor nf4_expand(const at::Tensor& spans, int64_t count, at::ScalarType dtype);

}  // namespace rankwise
