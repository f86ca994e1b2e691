#include "trainer/data/packing.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "base/counter_random.h"
#include "base/error.h"

namespace rankwise {
namespace {

using ::testing::ElementsAre;

std::vector<uint32_t> random_lengths(uint64_t key, size_t count, uint32_t longest) {
  std::vector<uint32_t> lengths;
  for (size_t i = 0; i < count; ++i) lengths.push_back(1 + static_cast<uint32_t>(random_below(key, i, longest)));
  return lengths;
}

uint64_t tokens_of_row(const Rows& rows, std::span<const uint32_t> lengths, size_t row) {
  uint64_t sum = 0;
  for (size_t i = rows.starts[row]; i < rows.starts[row + 1]; ++i) sum += lengths[rows.samples[i]];
  return sum;
}

// Best fit decreasing as its definition reads: every row is looked at for every sample.
std::vector<std::vector<uint64_t>> plain_best_fit(std::span<const uint32_t> lengths, uint32_t capacity) {
  std::vector<uint64_t> order(lengths.size());
  std::iota(order.begin(), order.end(), uint64_t{0});
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return lengths[a] > lengths[b]; });
  std::vector<std::vector<uint64_t>> rows;
  std::vector<uint32_t> used;
  for (const uint64_t sample : order) {
    size_t best = rows.size();
    for (size_t row = 0; row < rows.size(); ++row) {
      const bool fits = used[row] + lengths[sample] <= capacity;
      if (fits && (best == rows.size() || used[row] > used[best])) best = row;
    }
    if (best == rows.size()) {
      rows.emplace_back();
      used.push_back(0);
    }
    rows[best].push_back(sample);
    used[best] += lengths[sample];
  }
  return rows;
}

TEST(PackBestFit, FillsTheFullestRowThatHasRoom) {
  const std::vector<uint32_t> lengths = {2, 7, 3, 5, 1, 6};
  const Rows rows = pack_best_fit(lengths, 8);
  EXPECT_THAT(rows.starts, ElementsAre(0, 2, 4, 6));
  EXPECT_THAT(rows.samples, ElementsAre(1, 4, 5, 0, 3, 2));  // 7+1, 6+2, 5+3
}

TEST(PackBestFit, IsWhatTheDefinitionSays) {
  for (uint64_t key = 0; key < 50; ++key) {
    const auto lengths = random_lengths(key, 1 + key * 7, 16 + static_cast<uint32_t>(key));
    const uint32_t capacity = 16 + static_cast<uint32_t>(key) + static_cast<uint32_t>(key % 3) * 40;
    const Rows rows = pack_best_fit(lengths, capacity);
    const auto expected = plain_best_fit(lengths, capacity);
    ASSERT_EQ(rows.size(), expected.size());
    for (size_t r = 0; r < rows.size(); ++r) {
      const std::vector<uint64_t> row(rows.samples.begin() + static_cast<long>(rows.starts[r]),
                                      rows.samples.begin() + static_cast<long>(rows.starts[r + 1]));
      EXPECT_EQ(row, expected[r]);
    }
  }
}

TEST(PackBestFit, PutsEachSampleIntoExactlyOneRowWithinCapacity) {
  const auto lengths = random_lengths(3, 20'000, 512);
  const Rows rows = pack_best_fit(lengths, 512);
  std::vector<uint64_t> seen = rows.samples;
  std::sort(seen.begin(), seen.end());
  std::vector<uint64_t> all(lengths.size());
  std::iota(all.begin(), all.end(), uint64_t{0});
  EXPECT_EQ(seen, all);
  uint64_t tokens = 0;
  for (size_t row = 0; row < rows.size(); ++row) {
    ASSERT_LE(tokens_of_row(rows, lengths, row), 512u);
    ASSERT_GT(tokens_of_row(rows, lengths, row), 0u);
    tokens += tokens_of_row(rows, lengths, row);
  }
  EXPECT_GT(static_cast<double>(tokens) / static_cast<double>(rows.size() * 512), 0.99);
}

TEST(PackBestFit, TakesNoSamplesAndSamplesOfFullLength) {
  EXPECT_EQ(pack_best_fit({}, 8).size(), 0u);
  const std::vector<uint32_t> full = {8, 8};
  EXPECT_THAT(pack_best_fit(full, 8).samples, ElementsAre(0, 1));
}

TEST(PackBestFit, RefusesASampleLongerThanARow) {
  const std::vector<uint32_t> lengths = {3, 9};
  EXPECT_THROW(pack_best_fit(lengths, 8), Error);
}

TEST(OneSampleARow, KeepsTheOrder) {
  const Rows rows = one_sample_a_row(3);
  EXPECT_THAT(rows.starts, ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(rows.samples, ElementsAre(0, 1, 2));
}

}  // namespace
}  // namespace rankwise
