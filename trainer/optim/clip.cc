#include "trainer/optim/clip.h"

#include <ATen/ops/linalg_vector_norm.h>

#include <algorithm>

namespace rankwise {

double gradient_norm(const at::Tensor& gradients) {
  return at::linalg_vector_norm(gradients, 2, c10::nullopt, false, at::kDouble).item<double>();
}

double clip_factor(double norm, double max_norm) {
  return max_norm <= 0 ? 1.0 : std::min(1.0, max_norm / (norm + 1e-6));
}

}  // namespace rankwise
