// Which rows of the data set make up an optimizer step, and which of them a rank takes. A function of the settings, the
// step, and for the share of the rank: never of the number of ranks for the step as a whole.
//
// The rows of epoch 0 in their shuffled order, then those of epoch 1, ... form one stream; step s takes places
// [s*G, (s+1)*G) of it, across the borders of epochs. Only the last step of a run by epochs may be short.
// In a step, micro-batch m of rank r of W takes places [(m*W + r)*P, (m*W + r + 1)*P), as far as there are any.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace rankwise {

struct SamplerSettings {
  int64_t num_rows = 0;              // of the data set
  int64_t global_batch_rows = 1;     // G
  int64_t rows_per_micro_batch = 1;  // P, of one rank
  int64_t world_size = 1;            // W
  uint64_t seed = 42;
  bool shuffle = true;  // false: rows in order (evaluation)
  int64_t num_train_epochs = 1;
  std::optional<int64_t> max_steps{};  // if set, decides instead of num_train_epochs
};

// A permutation of 0 .. num_rows-1, keyed by (seed, epoch).
std::vector<int64_t> epoch_order(int64_t num_rows, uint64_t seed, int64_t epoch);

// Not thread-safe: it keeps the order of the epoch used last. Steps may be asked for in any order.
class Sampler {
 public:
  // Throws ConfigError for a setting that is not positive.
  explicit Sampler(const SamplerSettings& settings);

  int64_t num_steps() const noexcept;
  double epoch_at(int64_t step) const noexcept;     // epochs passed when `step` begins
  int64_t num_micro_batches(int64_t step) const;    // the same on every rank
  std::vector<int64_t> rows_of_step(int64_t step);  // of all ranks, in order
  // Possibly empty, when the step is short or does not divide among the ranks.
  std::vector<int64_t> rows_of(int64_t step, int64_t micro_batch, int64_t rank);

 private:
  std::vector<int64_t> rows_between(int64_t begin, int64_t end);  // places of the stream
  int64_t end_of_step(int64_t step) const;

  SamplerSettings settings_;
  int64_t num_places_;  // of the whole run
  int64_t cached_epoch_ = -1;
  std::vector<int64_t> cached_order_;
};

}  // namespace rankwise
