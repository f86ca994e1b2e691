// Packing: several samples a row, so that rows are nearly full and nothing is padded. Decided once for the whole data
// set, before rows are dealt to ranks.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace rankwise {

// Row r holds samples[starts[r] .. starts[r + 1]).
struct Rows {
  std::vector<uint64_t> starts{0};
  std::vector<uint64_t> samples;

  size_t size() const { return starts.size() - 1; }
};

// Best fit decreasing: from the longest sample to the shortest, each goes into the fullest row that has room for it.
// Equal lengths go in the order of their index, equal rows by age, so the result is a function of the lengths alone.
// O(n log n). Throws Error for a sample longer than capacity.
Rows pack_best_fit(std::span<const uint32_t> lengths, uint32_t capacity);

// One sample a row, in order.
Rows one_sample_a_row(size_t num_samples);

}  // namespace rankwise
