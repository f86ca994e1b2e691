// Dropout without generator state: whether an element is dropped is a function of where it stands.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "trainer/data/batch.h"

namespace rankwise {

// Which mask: the same key gives the same mask at any world size, micro-batch, packing or recompute.
struct DropoutKey {
  uint64_t seed;
  int64_t step;
  int64_t layer;
  int64_t input_group;  // layers that share an input share a mask: q, k, v one and gate, up another
};

// [N, width] of 0 (with probability p) and 1 / (1 - p), in the dtype and on the device of `options`: the same numbers
// on every device.
at::Tensor dropout_mask(const DropoutKey& key, const Batch& batch, int64_t width, double p,
                        const at::TensorOptions& options);

// What a kernel that makes the mask itself starts from: GpuDropoutMask (trainer/kernels/gpu_rows.h) says how.
struct DropoutRows {
  at::Tensor keys_N;  // int64 bits of what is unsigned, on the device
  uint64_t threshold;
  float kept;
};
DropoutRows dropout_rows(const DropoutKey& key, const Batch& batch, double p, at::Device device);

}  // namespace rankwise
