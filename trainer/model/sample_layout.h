// Where the samples of a batch lie.
// Legend: N tokens, S samples, E width of a row [q | k | v], F heads x head size, K key/value heads, D head size, H
// heads.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

namespace rankwise {

struct AttentionShape;

// Samples of any length as cuDNN takes them (trainer/kernels/gpu_attention.h). Its plans are made for these bounds,
// which are rounded up, so that a few plans serve all batches.
struct PackedSamples {
  int64_t samples, longest, rows;
  // In int32, 16-byte aligned, for so many samples; those that the batch does not have are empty.
  at::Tensor lengths_S;
  at::Tensor first_E, first_F, first_KD, first_H;  // [S + 1] first elements in rows of that width, then the end
};

// nullopt where the last row's elements cannot be counted in int32.
std::optional<PackedSamples> pack_samples(const std::vector<int64_t>& starts, const AttentionShape& shape,
                                          at::Device device);

struct SampleLayout {
  std::vector<int64_t> starts;  // [S + 1]: first row of each sample, then N
  // On CUDA devices alone:
  at::Tensor starts_S;                  // the same in int32
  std::optional<PackedSamples> packed;  // unless dense

  SampleLayout(std::vector<int64_t> sample_starts);  // implicit: on CPUs it is no more than that
  // For layers of this shape; their windows may differ.
  SampleLayout(std::vector<int64_t> sample_starts, at::Device device, const AttentionShape& shape);

  int64_t count() const { return static_cast<int64_t>(starts.size()) - 1; }
  int64_t longest() const;
  // All of one length, and that one of few: a plan of cuDNN serves this length alone.
  bool dense() const;
};

}  // namespace rankwise
