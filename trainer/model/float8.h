// Products with frozen weights in float8 on a CUDA device of compute capability 9.0: both sides in e4m3, a scale for
// each row of the activations, found anew for every call, and one for each output channel of the weight.
// Legend: N tokens, I inputs, O outputs.
#pragma once

#include <ATen/core/Tensor.h>

#include "trainer/weights/frozen_store.h"

namespace rankwise {

// Rows as the products read them.
struct Float8Rows {
  at::Tensor codes_NC;   // e4m3
  at::Tensor scales_N1;  // float32
};

// Of x, or of x * factors (float32, one a column). x: bfloat16 or float32 on a CUDA device, columns a multiple of 16;
// may be some columns of a wider matrix.
Float8Rows float8_rows(const at::Tensor& x_NC, const at::Tensor& factors_C = {});

// start + x W^T, in bfloat16. start: undefined (zeros) or [N, O], bfloat16; may be out. Both may be some columns of a
// wider matrix. What is added is added before the sum is rounded, where trainer/model/gpu_gemm.h knows the product.
void float8_product(at::Tensor out_NO, const at::Tensor& start_NO, const Float8Rows& x_NI, const Float8Weight& weight);

// start + dY W, likewise. The scales of W lie along the sum here, so they go into the rows of dY before these are
// quantised; the GEMM reads W transposed, which is made for this call.
void float8_product_transposed(at::Tensor out_NI, const at::Tensor& start_NI, const at::Tensor& dy_NO,
                               const Float8Weight& weight);

}  // namespace rankwise
