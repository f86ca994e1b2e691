#include "trainer/model/mlp.h"

#include <ATen/ATen.h>

namespace rankwise {

at::Tensor swiglu(const at::Tensor& gate_up_NI2) {
  const auto parts = gate_up_NI2.chunk(2, -1);
  return at::silu(parts[0]).mul_(parts[1]);
}

void swiglu_backward(at::Tensor dh_NI, at::Tensor& gate_up_NI2) {
  const auto parts = gate_up_NI2.chunk(2, -1);
  at::Tensor gate = parts[0], up = parts[1];
  const at::Tensor silu = at::silu(gate);
  at::silu_backward_out(gate, dh_NI.mul(up), gate);  // element by element, so gate may be read and written
  at::mul_out(up, dh_NI, silu);
}

}  // namespace rankwise
