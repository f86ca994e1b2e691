#include "trainer/data/batcher.h"

namespace rankwise {
namespace {

void append_sample(Batch& batch, int64_t sample_id, std::span<const uint32_t> tokens) {
  const int64_t start = batch.num_tokens();
  for (size_t i = 0; i < tokens.size(); ++i) {
    const int64_t id = tokens[i] & ~kCarriesLoss;
    batch.ids.push_back(id);
    batch.positions.push_back(static_cast<int64_t>(i));
    if (i > 0 && (tokens[i] & kCarriesLoss) != 0) {
      batch.target_rows.push_back(start + static_cast<int64_t>(i) - 1);
      batch.targets.push_back(id);
    }
  }
  batch.sample_ids.push_back(sample_id);
  batch.sample_starts.push_back(batch.num_tokens());
}

}  // namespace

Batch make_batch(const DatasetCache& data, std::span<const int64_t> rows) {
  Batch batch;
  batch.sample_starts.push_back(0);
  for (const int64_t row : rows) {
    for (const uint64_t sample : data.samples_of_row(row)) {
      append_sample(batch, static_cast<int64_t>(sample), data.tokens_of_sample(sample));
    }
  }
  if (rows.empty()) {
    constexpr uint32_t kFiller[] = {0};
    append_sample(batch, -1, kFiller);
  }
  return batch;
}

}  // namespace rankwise
