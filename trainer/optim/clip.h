// Clipping by the global norm, as torch.nn.utils.clip_grad_norm_ does it.
#pragma once

#include <ATen/core/Tensor.h>

namespace rankwise {

// Of a flat, contiguous buffer, in float64 where it lies; not finite if any element is not.
at::Tensor sum_of_squares(const at::Tensor& gradients);
// Its root, the L2 norm. Waits for a device.
double gradient_norm(const at::Tensor& gradients);
// The factor that brings `norm` to max_norm: 1 where it is below, or where max_norm is 0 (no clipping).
double clip_factor(double norm, double max_norm);

}  // namespace rankwise
