// Cross-entropy of the language-model head, without ever holding tokens x vocabulary: chunks of rows are multiplied
// with the head, turned into their own gradient in place and multiplied back at once. The head is frozen, so nothing is
// kept. Legend: M target rows, C channels, V vocabulary.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace rankwise {

struct HeadLoss {
  at::Tensor sum;         // of -log p(target) over the M rows: a float64 scalar on the device of the rows
  at::Tensor dhidden_MC;  // d(sum) / d(hidden); undefined when no gradient was asked for
};

// Rows of logits held at a time.
int64_t head_chunk_rows(at::Device device);

HeadLoss head_loss(const at::Tensor& hidden_MC, const at::Tensor& head_VC, const at::Tensor& targets_M,
                   bool with_gradient);

}  // namespace rankwise
