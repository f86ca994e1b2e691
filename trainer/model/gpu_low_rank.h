// The low-rank part of a group of linear layers on a CUDA device, each wide matrix read once
// (trainer/kernels/gpu_low_rank.h). Composed of narrow products the same is LinearGroup's.
// Legend: N tokens, I inputs, O outputs, R rank (of all parts together).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>

namespace rankwise {

// One part of a group: its columns of the wide matrix and, where it has a pair, its columns of S.
struct LowRankSlice {
  int64_t out_begin, columns;
  int64_t rank_begin = 0, rank = 0;
  at::Tensor b_OR = {}, grad_b_OR = {};  // undefined without a pair
  double scaling = 1.0;
};

// Whether this process's CUDA device has the shared memory that the kernels take.
bool device_has_low_rank_kernels();

// Whether the kernels know these: bfloat16 on a CUDA device, at most three parts, ranks of 8 or 16, widths in steps of
// 32, on such a device. a: of all parts, [R, I].
bool fits_low_rank(std::span<const LowRankSlice> slices, const at::Tensor& a_RI);

// out = the starts + each slice's scaling * s b^T. At most two starts: [N, O], out itself, or [O] for every row.
void low_rank_add(const at::Tensor& out_NO, std::span<const at::Tensor> starts, const at::Tensor& s_NR,
                  std::span<const LowRankSlice> slices);
// out = start + ds a. start: undefined (zeros), or out itself.
void low_rank_add_a(const at::Tensor& out_NI, const at::Tensor& start_NI, const at::Tensor& ds_NR,
                    const at::Tensor& a_RI);
// dS of each slice, scaling * dy b; adds scaling * dy^T s to the gradients of B.
at::Tensor low_rank_gradient(const at::Tensor& dy_NO, const at::Tensor& s_NR, std::span<const LowRankSlice> slices);

}  // namespace rankwise
