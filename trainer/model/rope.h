// Rotary position embedding in Hugging Face's half-split layout (source: transformers modeling_rope_utils.py; Su et al.
// 2021), with the "linear" and "llama3" frequency scalings.
// Legend: N tokens, H heads, D head size.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "trainer/weights/model_config.h"

namespace rankwise {

// Cosines and sines for one batch, computed in float32 as transformers does, then in the compute dtype.
struct RopeAngles {
  at::Tensor cos_N1D;  // [N, 1, D / 2]
  at::Tensor sin_N1D;
};

// Angles are computed on the host, once a position, so that they have the same bits on every device.
class Rope {
 public:
  explicit Rope(const ModelConfig& config);
  // On `device`. Not const: the table grows with the highest position that was ever asked for.
  RopeAngles angles(const std::vector<int64_t>& positions, at::ScalarType dtype, at::Device device);

 private:
  void cover(int64_t num_positions, const at::TensorOptions& options);

  at::Tensor inverse_frequency_D_;  // [D / 2], float32
  at::Tensor cos_P1D_, sin_P1D_;    // of positions 0 .. P - 1, as they were asked for last
};

// Rotates in place; `inverse` turns back (the gradient of a rotation is the opposite rotation).
void apply_rope(at::Tensor x_NHD, const RopeAngles& angles, bool inverse);

}  // namespace rankwise
