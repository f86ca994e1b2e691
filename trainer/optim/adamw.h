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
  // One update where the parameters lie, of which the host need not know the outcome: gradients are divided by
  // `targets` (at least 1) and clipped to max_grad_norm (0: not). Left out where `nonfinite` is positive or the norm is
  // not finite. targets, nonfinite: float64 scalars. Returns Outcome as float64 on the same device.
  enum Outcome { kNorm, kApplied, kNumOutcomes };  // norm: before clipping
  at::Tensor update(const at::Tensor& gradients, const at::Tensor& targets, const at::Tensor& nonfinite,
                    double learning_rate, double max_grad_norm);
  // One update that the host decides on, with `gradients` times gradient_scale.
  void step(const at::Tensor& gradients, double learning_rate, double gradient_scale);

  // For checkpoints.
  at::Tensor& first_moment() { return first_moment_; }
  at::Tensor& second_moment() { return second_moment_; }
  int64_t steps() const;  // updates that were applied; waits for a device
  void set_steps(int64_t steps);

 private:
  at::Tensor update_on_device(const at::Tensor& gradients, const at::Tensor& targets, const at::Tensor& nonfinite,
                              double learning_rate, double max_grad_norm);

  at::Tensor parameters_, first_moment_, second_moment_;
  AdamWOptions options_;
  int64_t steps_ = 0;                               // on the host
  at::Tensor device_steps_, block_sums_, scalars_;  // on a device, see trainer/kernels/adamw.h
};

}  // namespace rankwise
