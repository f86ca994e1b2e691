// Dropout without generator state: whether an element is dropped is a function of where it stands.
// Legend: N tokens, M masks.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "trainer/data/batch.h"
#include "trainer/kernels/gpu_rows.h"

namespace rankwise {

// Which masks: the same key gives the same ones at any world size, micro-batch, packing or recompute.
struct DropoutKey {
  uint64_t seed;
  int64_t step;
};

// Linear layers of a block that share an input share a mask.
enum InputGroup : int64_t { kQkvInput, kOutputInput, kGateUpInput, kDownInput };
inline constexpr int64_t kNumInputGroups = 4;

// Of one input: what the rows of its mask are functions of, int64 bits of what is unsigned, and the share that is
// dropped. Without keys nothing is.
struct Dropout {
  at::Tensor row_keys_N = {};
  double p = 0.0;

  bool drops() const { return row_keys_N.defined(); }
};

// Of all inputs of a micro-batch. Without keys nothing is dropped.
struct StepDropout {
  at::Tensor row_keys_MN = {};  // layer by layer, group by group
  double p = 0.0;

  Dropout of(int64_t layer, InputGroup group) const;
};

// The same keys on every device. Without any where p is 0.
StepDropout step_dropout(const DropoutKey& key, int64_t num_layers, const Batch& batch, double p, at::Device device);

// [N, width] of 0 (with probability p) and 1 / (1 - p), in the dtype and on the device of `options`, where the keys
// lie: the same numbers on every device.
at::Tensor dropout_mask(const Dropout& dropout, int64_t width, const at::TensorOptions& options);

// For a kernel that makes the mask itself, as long as `dropout` lives.
GpuDropout gpu_dropout(const Dropout& dropout);

}  // namespace rankwise
