// AdamW over flat float32 buffers on a CUDA device, with clipping, without a word to or from the host: `prepare` finds
// out what an update needs and leaves it in device memory, where `step` reads it. Compiled into librankwise_cuda.so;
// CPUs and the tests' reference use trainer/optim/adamw.cc and clip.cc.
// Pointers are device memory; those to `count` numbers are 16-byte aligned.
#pragma once

#include <cstdint>

namespace rankwise {

struct AdamWSettings {
  double learning_rate, weight_decay, beta1, beta2, epsilon;
  double max_grad_norm;  // 0: no clipping
};

// What `prepare` writes.
struct AdamWScalars {
  float keep;                      // 1 - learning rate * weight decay
  float step_size;                 // learning rate / (1 - beta1^t)
  float inverse_root_correction2;  // 1 / sqrt(1 - beta2^t)
  float gradient_scale;            // clipping / target tokens
  double norm;                     // of the gradients / target tokens, before clipping
  int applied;                     // 0: something is not finite, `step` changes nothing
};

constexpr int kAdamWBlockSums = 1024;

struct AdamWPreparation {
  const float* gradients;  // summed over target tokens and ranks
  int64_t count;
  const double* target_tokens;  // of all ranks
  const double* nonfinite;      // more than 0: a rank has seen something that is not finite
  double* block_sums;           // room for kAdamWBlockSums
  int64_t* steps;               // updates so far; counts this one where it is applied
  AdamWScalars* scalars;        // written
};

struct AdamWBuffers {
  float* parameters;
  float* first_moment;
  float* second_moment;
  const float* gradients;
  void* compute_copy;  // the parameters in bfloat16, written as well; may be null
  int64_t count;
};

}  // namespace rankwise

// Each starts its work on `stream` (a cudaStream_t) and returns a cudaError_t, 0 for success.
extern "C" {
int rankwise_adamw_prepare(const rankwise::AdamWPreparation* preparation, const rankwise::AdamWSettings* settings,
                           void* stream);
int rankwise_adamw_step(const rankwise::AdamWBuffers* buffers, const rankwise::AdamWScalars* scalars,
                        const rankwise::AdamWSettings* settings, void* stream);
}
