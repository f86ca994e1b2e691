// An MLP with a low-rank pair on each of its matrices, on a CUDA device: SwiGLU and the terms around it in one pass
// each way (trainer/kernels/gpu_low_rank.h). The composed form of the same is LinearGroup's with swiglu() between.
// Legend: N tokens, I MLP width, R rank of a pair.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <optional>

#include "trainer/model/linear.h"

namespace rankwise {

// Whether the passes know such an MLP: pairs of one rank, 8 or 16, and a width in steps of 32. rank 0: no pair.
bool shares_passes(const std::array<int64_t, 3>& ranks, int64_t width, c10::ScalarType dtype, c10::Device device);
// Bytes that one of them takes beside its inputs and outputs, at most.
int64_t shared_pass_bytes(int64_t tokens, int64_t width);

// The same of a model's MLP, on a device that has the shared memory, too.
bool shares_passes(const LinearGroup& gate_up, const LinearGroup& down, c10::ScalarType dtype, c10::Device device);

struct LowRankMlp {
  const LowRank *gate, *up, *down;
  Dropout dropout;  // of down's input
};

// The pairs of an MLP whose passes are shared, x being its input or a gradient; none: compose.
std::optional<LowRankMlp> low_rank_mlp(const LinearGroup& gate_up, const LinearGroup& down, const at::Tensor& x,
                                       const Dropout& dropout);

// gate_up: x W^T without low-rank terms, in both passes. s: x A^T of gate beside up.
struct LowRankSwiglu {
  at::Tensor h_NI, s_down_NR;
};
LowRankSwiglu low_rank_swiglu(const LowRankMlp& mlp, const at::Tensor& gate_up_NI2, const at::Tensor& s_NR2);

// dh: dy W of down, without its low-rank term; ds_down: its dS. gate_up becomes dgate | dup. Adds to the gradients of
// gate's and up's B and of down's A; returns dS of gate beside up.
at::Tensor low_rank_swiglu_backward(const LowRankMlp& mlp, const at::Tensor& dh_NI, const at::Tensor& ds_down_NR,
                                    at::Tensor& gate_up_NI2, const at::Tensor& s_NR2);

}  // namespace rankwise
