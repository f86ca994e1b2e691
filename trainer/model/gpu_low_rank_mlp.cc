#include "trainer/model/gpu_low_rank_mlp.h"

#include <ATen/ATen.h>
#include <ATen/record_function.h>

#include "base/shared_library.h"
#include "trainer/kernels/gpu_low_rank.h"
#include "trainer/model/gpu.h"
#include "trainer/model/gpu_low_rank.h"

namespace rankwise {
namespace {

at::Tensor scratch_of(const at::Tensor& gate_up_NI2) {
  static auto* const bytes =
      cuda_library_function<decltype(rankwise_low_rank_scratch_bytes)>("rankwise_low_rank_scratch_bytes");
  return at::empty({bytes(gate_up_NI2.size(0), gate_up_NI2.size(1) / 2)}, gate_up_NI2.options().dtype(at::kByte));
}

// Owns what a call points to beside the caller's tensors.
struct Call {
  at::Tensor scratch;
  GpuLowRankMlp mlp;

  Call(const LowRankMlp& m, const at::Tensor& gate_up_NI2, const at::Tensor& s_NR2)
      : scratch(scratch_of(gate_up_NI2)),
        mlp{.gate_up_NI2 = gate_up_NI2.mutable_data_ptr(),
            .s_gate_up_NR2 = s_NR2.const_data_ptr(),
            .b_gate_IR = m.gate->b_OR.const_data_ptr(),
            .b_up_IR = m.up->b_OR.const_data_ptr(),
            .a_down_RI = m.down->a_RI.const_data_ptr(),
            .rows = gate_up_NI2.size(0),
            .width = gate_up_NI2.size(1) / 2,
            .rank = m.down->a_RI.size(0),
            .gate_scaling = static_cast<float>(m.gate->scaling),
            .up_scaling = static_cast<float>(m.up->scaling),
            .dropout = {nullptr, 0, 1.0f},
            .scratch = static_cast<float*>(scratch.mutable_data_ptr())} {
    if (m.dropout.drops()) mlp.dropout = gpu_dropout(m.dropout);
  }
};

int64_t rank_of(const LinearPart& part) { return part.lora ? part.lora->a_RI.size(0) : 0; }

}  // namespace

bool shares_passes(const std::array<int64_t, 3>& ranks, int64_t width, c10::ScalarType dtype, c10::Device device) {
  return device.is_cuda() && dtype == at::kBFloat16 && fits_low_rank_kernels(ranks[0]) && ranks[0] == ranks[1] &&
         ranks[1] == ranks[2] && width % kLowRankWidthStep == 0;
}

bool shares_passes(const LinearGroup& gate_up, const LinearGroup& down, c10::ScalarType dtype, c10::Device device) {
  const auto& parts = gate_up.parts();
  const LinearPart& only = down.parts()[0];
  return shares_passes({rank_of(parts[0]), rank_of(parts[1]), rank_of(only)}, only.in_features, dtype, device) &&
         device_has_low_rank_kernels();
}

int64_t shared_pass_bytes(int64_t tokens, int64_t width) {
  return low_rank_scratch_bytes(tokens, width, kLowRankMostRegions);
}

std::optional<LowRankMlp> low_rank_mlp(const LinearGroup& gate_up, const LinearGroup& down, const at::Tensor& x,
                                       const Dropout& dropout) {
  if (!shares_passes(gate_up, down, x.scalar_type(), x.device())) return {};
  const auto& parts = gate_up.parts();
  return LowRankMlp{&*parts[0].lora, &*parts[1].lora, &*down.parts()[0].lora, dropout};
}

LowRankSwiglu low_rank_swiglu(const LowRankMlp& mlp, const at::Tensor& gate_up_NI2, const at::Tensor& s_NR2) {
  RECORD_FUNCTION("rankwise::low_rank_swiglu", {});
  static auto* const kernel = cuda_library_function<decltype(rankwise_low_rank_swiglu)>("rankwise_low_rank_swiglu");
  const Call call(mlp, gate_up_NI2, s_NR2);
  LowRankSwiglu made{at::empty({call.mlp.rows, call.mlp.width}, gate_up_NI2.options()),
                     at::empty({call.mlp.rows, call.mlp.rank}, gate_up_NI2.options())};
  launch(kernel, GpuLowRankSwiglu{call.mlp, made.h_NI.mutable_data_ptr(), made.s_down_NR.mutable_data_ptr()});
  return made;
}

at::Tensor low_rank_swiglu_backward(const LowRankMlp& mlp, const at::Tensor& dh_NI, const at::Tensor& ds_down_NR,
                                    at::Tensor& gate_up_NI2, const at::Tensor& s_NR2) {
  RECORD_FUNCTION("rankwise::low_rank_swiglu_backward", {});
  static auto* const kernel =
      cuda_library_function<decltype(rankwise_low_rank_swiglu_backward)>("rankwise_low_rank_swiglu_backward");
  const Call call(mlp, gate_up_NI2, s_NR2);
  at::Tensor ds_NR2 = at::empty_like(s_NR2);
  launch(kernel, GpuLowRankSwigluBackward{.mlp = call.mlp,
                                          .dh_NI = dh_NI.const_data_ptr(),
                                          .ds_down_NR = ds_down_NR.const_data_ptr(),
                                          .ds_gate_up_NR2 = ds_NR2.mutable_data_ptr(),
                                          .grad_b_gate_IR = mlp.gate->grad_b_OR.mutable_data_ptr<float>(),
                                          .grad_b_up_IR = mlp.up->grad_b_OR.mutable_data_ptr<float>(),
                                          .grad_a_down_RI = mlp.down->grad_a_RI.mutable_data_ptr<float>()});
  return ds_NR2;
}

}  // namespace rankwise
