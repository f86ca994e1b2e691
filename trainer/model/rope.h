// Rotary position embedding in Hugging Face's half-split layout (source: transformers modeling_rope_utils.py; Su et al.
// 2021), with the "linear" and "llama3" frequency scalings.
// Legend: N tokens, H heads, D head size.
#pragma once

#include <ATen/core/Tensor.h>

#include "trainer/weights/model_config.h"

namespace rankwise {

// Cosines and sines for one batch, computed in float32 as transformers does, then in the compute dtype.
struct RopeAngles {
  at::Tensor cos_N1D;  // [N, 1, D / 2]
  at::Tensor sin_N1D;
};

class Rope {
 public:
  explicit Rope(const ModelConfig& config);
  RopeAngles angles(const at::Tensor& positions_N, at::ScalarType dtype) const;

 private:
  at::Tensor inverse_frequency_D_;  // [D / 2], float32
};

// Rotates in place; `inverse` turns back (the gradient of a rotation is the opposite rotation).
void apply_rope(at::Tensor x_NHD, const RopeAngles& angles, bool inverse);

}  // namespace rankwise
