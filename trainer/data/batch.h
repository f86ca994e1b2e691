// What one rank computes in one micro-batch: samples laid end to end, without padding.
// Legend: N tokens, S samples, M target tokens.
#pragma once

#include <cstdint>
#include <vector>

namespace rankwise {

struct Batch {
  std::vector<int64_t> ids;        // [N] token ids
  std::vector<int64_t> positions;  // [N] position inside the sample: restarts at 0 with each sample
  std::vector<int64_t>
      sample_starts;                // [S + 1] first token of each sample, then N ("cu_seqlens"); attention stays inside
  std::vector<int64_t> sample_ids;  // [S] index of the sample in the data set: keys the dropout masks
  std::vector<int64_t> target_rows;  // [M] rows (0 .. N-1) whose next token carries loss
  std::vector<int64_t> targets;      // [M] that next token

  int64_t num_tokens() const { return static_cast<int64_t>(ids.size()); }
  int64_t num_samples() const { return static_cast<int64_t>(sample_ids.size()); }
  int64_t num_targets() const { return static_cast<int64_t>(targets.size()); }
};

}  // namespace rankwise
