#include "trainer/data/sampler.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "base/check.h"
#include "base/counter_random.h"

namespace rankwise {
namespace {

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t places_of_run(const SamplerSettings& settings) {
  if (settings.max_steps) return *settings.max_steps * settings.global_batch_rows;
  return settings.num_train_epochs * settings.num_rows;
}

void require_positive(int64_t value, const char* name) {
  RW_CHECK(value > 0, ConfigError, "{}: must be at least 1, is {}", name, value);
}

}  // namespace

std::vector<int64_t> epoch_order(int64_t num_rows, uint64_t seed, int64_t epoch) {
  std::vector<int64_t> order(static_cast<size_t>(num_rows));
  std::iota(order.begin(), order.end(), int64_t{0});
  const uint64_t key = random64(mix64(seed), static_cast<uint64_t>(epoch));
  for (uint64_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random_below(key, i, i)]);
  return order;
}

Sampler::Sampler(const SamplerSettings& settings) : settings_(settings) {
  require_positive(settings.num_rows, "rows of the data set");
  require_positive(settings.global_batch_rows, "train.global_batch_size");
  require_positive(settings.rows_per_micro_batch, "train.per_device_train_batch_size");
  require_positive(settings.world_size, "world size");
  if (settings.max_steps) require_positive(*settings.max_steps, "train.max_steps");
  require_positive(settings.num_train_epochs, "train.num_train_epochs");
  num_places_ = places_of_run(settings);
}

int64_t Sampler::num_steps() const noexcept { return divide_up(num_places_, settings_.global_batch_rows); }

double Sampler::epoch_at(int64_t step) const noexcept {
  const int64_t place = std::min(step * settings_.global_batch_rows, num_places_);
  return static_cast<double>(place) / static_cast<double>(settings_.num_rows);
}

int64_t Sampler::end_of_step(int64_t step) const {
  RW_CHECK(step >= 0 && step < num_steps(), Error, "step {} of a run of {} steps", step, num_steps());
  return std::min((step + 1) * settings_.global_batch_rows, num_places_);
}

int64_t Sampler::num_micro_batches(int64_t step) const {
  const int64_t num_rows = end_of_step(step) - step * settings_.global_batch_rows;
  return divide_up(num_rows, settings_.world_size * settings_.rows_per_micro_batch);
}

std::vector<int64_t> Sampler::rows_of_step(int64_t step) {
  return rows_between(step * settings_.global_batch_rows, end_of_step(step));
}

std::vector<int64_t> Sampler::rows_of(int64_t step, int64_t micro_batch, int64_t rank) {
  const int64_t share = micro_batch * settings_.world_size + rank;
  const int64_t begin = step * settings_.global_batch_rows + share * settings_.rows_per_micro_batch;
  return rows_between(begin, std::min(begin + settings_.rows_per_micro_batch, end_of_step(step)));
}

std::vector<int64_t> Sampler::rows_between(int64_t begin, int64_t end) {
  std::vector<int64_t> rows;
  for (int64_t place = begin; place < end; ++place) {
    const int64_t epoch = place / settings_.num_rows;
    const int64_t index = place % settings_.num_rows;
    if (settings_.shuffle && epoch != cached_epoch_) {
      cached_order_ = epoch_order(settings_.num_rows, settings_.seed, epoch);
      cached_epoch_ = epoch;
    }
    rows.push_back(settings_.shuffle ? cached_order_[static_cast<size_t>(index)] : index);
  }
  return rows;
}

}  // namespace rankwise
