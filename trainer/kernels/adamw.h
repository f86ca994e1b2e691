// One AdamW update of flat float32 buffers on a CUDA device, in one pass and without a word to the host: what gates and
// scales it is read from device memory. Compiled into librankwise_cuda.so; CPUs and the tests' reference use
// trainer/optim/adamw.cc.
#pragma once

#include <cstdint>

namespace rankwise {

// The host's share of the formula, as in AdamW::step.
struct AdamWFactors {
  float keep;  // 1 - learning rate * weight decay
  float beta1, beta2;
  float step_size;                 // learning rate / (1 - beta1^t)
  float inverse_root_correction2;  // 1 / sqrt(1 - beta2^t)
  float epsilon;
};

// Device pointers, each to `count` floats but for gradient_scale, which is one.
struct AdamWBuffers {
  float* parameters;
  float* first_moment;
  float* second_moment;
  const float* gradients;
  const float* gradient_scale;  // not finite: nothing is changed
  int64_t count;
};

}  // namespace rankwise

// Starts the update on `stream` (a cudaStream_t). Returns a cudaError_t, 0 for success.
extern "C" int rankwise_adamw_step(const rankwise::AdamWBuffers* buffers, const rankwise::AdamWFactors* factors,
                                   void* stream);
