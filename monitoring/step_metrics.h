// What is known at the end of one optimizer step. The trainer fills it once; metrics, terminal and log each take it
// whole.
#pragma once

#include <cstdint>

namespace rankwise {

// All counts are sums over every rank and micro-batch of this one step.
struct StepMetrics {
  int64_t step = 0;            // 1 .. total; the number of optimizer steps done
  double epoch = 0;            // passes over the training data so far, with a fraction
  double loss = 0;             // mean over the target tokens, natural logarithm; NaN or infinite in a non-finite step
  double gradient_norm = 0;    // before clipping
  double learning_rate = 0;    // the one that this step used
  int64_t input_tokens = 0;    // tokens of samples, without padding
  int64_t target_tokens = 0;   // those of them that a loss was computed on
  int64_t padding_tokens = 0;  // computed for nothing
  int64_t samples = 0;         // before packing
  double step_seconds = 0;     // wall time of the step, without evaluation and checkpoints
  int64_t peak_memory_bytes = 0;  // highest resident bytes (CPU) or device bytes (GPU) of one process so far
  bool nonfinite = false;         // the loss or a gradient was not finite and the update was left out
};

// Real tokens, without padding; 0 when no time passed.
inline double tokens_per_second(const StepMetrics& step) {
  return step.step_seconds > 0 ? static_cast<double>(step.input_tokens) / step.step_seconds : 0.0;
}

}  // namespace rankwise
