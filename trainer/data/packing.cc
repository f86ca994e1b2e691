#include "trainer/data/packing.h"

#include <algorithm>
#include <numeric>
#include <set>
#include <utility>

#include "base/check.h"

namespace rankwise {
namespace {

std::vector<uint64_t> longest_first(std::span<const uint32_t> lengths) {
  std::vector<uint64_t> order(lengths.size());
  std::iota(order.begin(), order.end(), uint64_t{0});
  std::stable_sort(order.begin(), order.end(), [&](uint64_t a, uint64_t b) { return lengths[a] > lengths[b]; });
  return order;
}

// Groups samples by row; within a row they keep the order of `order`.
Rows rows_of(std::span<const uint64_t> order, std::span<const uint64_t> row_of_place, size_t num_rows) {
  Rows rows;
  rows.starts.assign(num_rows + 1, 0);
  for (const uint64_t row : row_of_place) ++rows.starts[row + 1];
  std::partial_sum(rows.starts.begin(), rows.starts.end(), rows.starts.begin());
  rows.samples.resize(order.size());
  std::vector<uint64_t> next(rows.starts.begin(), rows.starts.end() - 1);
  for (size_t place = 0; place < order.size(); ++place) rows.samples[next[row_of_place[place]]++] = order[place];
  return rows;
}

}  // namespace

Rows pack_best_fit(std::span<const uint32_t> lengths, uint32_t capacity) {
  const std::vector<uint64_t> order = longest_first(lengths);
  std::set<std::pair<uint32_t, uint64_t>> room;  // (free tokens, row) of the rows that are not full
  std::vector<uint64_t> row_of_place;
  row_of_place.reserve(order.size());
  size_t num_rows = 0;
  for (const uint64_t sample : order) {
    const uint32_t length = lengths[sample];
    RW_CHECK(length <= capacity, Error, "sample {} has {} tokens, more than a row's {}", sample, length, capacity);
    uint32_t free_tokens = capacity;
    uint64_t row = num_rows;
    if (const auto best = room.lower_bound({length, 0}); best != room.end()) {
      std::tie(free_tokens, row) = *best;
      room.erase(best);
    } else {
      ++num_rows;
    }
    row_of_place.push_back(row);
    if (free_tokens > length) room.emplace(free_tokens - length, row);
  }
  return rows_of(order, row_of_place, num_rows);
}

Rows one_sample_a_row(size_t num_samples) {
  Rows rows;
  rows.starts.resize(num_samples + 1);
  std::iota(rows.starts.begin(), rows.starts.end(), uint64_t{0});
  rows.samples.assign(rows.starts.begin(), rows.starts.end() - 1);
  return rows;
}

}  // namespace rankwise
