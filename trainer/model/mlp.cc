#include "trainer/model/mlp.h"

#include <ATen/ATen.h>
#include <ATen/record_function.h>

#include "trainer/kernels/rows.h"
#include "trainer/model/gpu.h"
#include "trainer/model/products.h"

namespace rankwise {

at::Tensor swiglu(const at::Tensor& gate_up_NI2) {
  RECORD_FUNCTION("rankwise::swiglu", {});
  if (fits_cpu_kernels(gate_up_NI2)) {
    const int64_t rows = gate_up_NI2.size(0), width = gate_up_NI2.size(1) / 2;
    at::Tensor h_NI = at::empty({rows, width}, gate_up_NI2.options());
    swiglu_rows(gate_up_NI2.const_data_ptr<float>(), rows, width, h_NI.mutable_data_ptr<float>());
    return h_NI;
  }
  if (fits_gpu_kernels(gate_up_NI2)) {
    const int64_t rows = gate_up_NI2.size(0), width = gate_up_NI2.size(1) / 2;
    at::Tensor h_NI = at::empty({rows, width}, gate_up_NI2.options());
    launch(gpu_row_kernels().swiglu,
           GpuSwiglu{gpu_type(gate_up_NI2), gate_up_NI2.const_data_ptr(), h_NI.mutable_data_ptr(), rows, width});
    return h_NI;
  }
  const auto parts = gate_up_NI2.chunk(2, -1);
  return at::silu(parts[0]).mul_(parts[1]);
}

void swiglu_backward(at::Tensor dh_NI, at::Tensor& gate_up_NI2) {
  RECORD_FUNCTION("rankwise::swiglu_backward", {});
  if (fits_cpu_kernels(gate_up_NI2) && fits_cpu_kernels(dh_NI)) {
    return swiglu_rows_backward(dh_NI.const_data_ptr<float>(), dh_NI.size(0), dh_NI.size(1),
                                gate_up_NI2.mutable_data_ptr<float>());
  }
  if (fits_gpu_kernels(gate_up_NI2) && fits_gpu_kernels(dh_NI)) {
    return launch(gpu_row_kernels().swiglu_backward,
                  GpuSwigluBackward{gpu_type(dh_NI), dh_NI.const_data_ptr(), gate_up_NI2.mutable_data_ptr(),
                                    dh_NI.size(0), dh_NI.size(1)});
  }
  const auto parts = gate_up_NI2.chunk(2, -1);
  at::Tensor gate = parts[0], up = parts[1];
  const at::Tensor silu = at::silu(gate);
  at::silu_backward_out(gate, dh_NI.mul(up), gate);  // element by element, so gate may be read and written
  at::mul_out(up, dh_NI, silu);
}

}  // namespace rankwise
