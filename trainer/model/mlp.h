// SwiGLU (Shazeer 2020): h = silu(gate) * up, on rows [gate | up].
// Legend: N tokens, I width of the MLP.
#pragma once

#include <ATen/core/Tensor.h>

namespace rankwise {

at::Tensor swiglu(const at::Tensor& gate_up_NI2);
// Turns gate_up into dL/d(gate_up) in place, for dL/dh.
void swiglu_backward(at::Tensor dh_NI, at::Tensor& gate_up_NI2);

}  // namespace rankwise
