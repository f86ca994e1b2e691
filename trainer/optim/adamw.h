// AdamW (Loshchilov and Hutter 2019) over flat buffers, in one pass; the arithmetic of torch.optim.AdamW.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace rankwise {

struct AdamWOptions {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0.0;
};

class AdamW {
 public:
  // parameters: flat, contiguous, float32 or float64; kept and updated in place.
  AdamW(at::Tensor parameters, const AdamWOptions& options);
  // One update with `gradients` times gradient_scale (1 / target tokens, clipping).
  void step(const at::Tensor& gradients, double learning_rate, double gradient_scale);

  // For checkpoints.
  at::Tensor& first_moment() { return first_moment_; }
  at::Tensor& second_moment() { return second_moment_; }
  int64_t steps() const { return steps_; }
  void set_steps(int64_t steps) { steps_ = steps; }

 private:
  at::Tensor parameters_, first_moment_, second_moment_;
  AdamWOptions options_;
  int64_t steps_ = 0;
};

}  // namespace rankwise
