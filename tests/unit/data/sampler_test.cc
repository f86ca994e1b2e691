#include "trainer/data/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <set>

#include "base/counter_random.h"
#include "base/error.h"

namespace rankwise {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<int64_t> sorted(std::vector<int64_t> rows) {
  std::sort(rows.begin(), rows.end());
  return rows;
}

std::vector<int64_t> all_rows(int64_t num_rows) {
  std::vector<int64_t> rows(static_cast<size_t>(num_rows));
  std::iota(rows.begin(), rows.end(), int64_t{0});
  return rows;
}

// The rows that all ranks together take in a step, in the order of their places.
std::vector<int64_t> rows_taken(Sampler& sampler, const SamplerSettings& settings, int64_t step) {
  std::vector<int64_t> rows;
  for (int64_t m = 0; m < sampler.num_micro_batches(step); ++m) {
    for (int64_t rank = 0; rank < settings.world_size; ++rank) {
      const auto share = sampler.rows_of(step, m, rank);
      EXPECT_LE(share.size(), static_cast<size_t>(settings.rows_per_micro_batch));
      rows.insert(rows.end(), share.begin(), share.end());
    }
  }
  return rows;
}

TEST(Sampler, TakesTheSameRowsAStepAtAnyWorldSizeAndMicroBatch) {
  SamplerSettings settings{.num_rows = 37, .global_batch_rows = 8, .num_train_epochs = 3};
  Sampler reference(settings);
  for (const int64_t world : {1, 2, 3, 4, 7}) {
    for (const int64_t per_rank : {1, 2, 4, 5}) {
      settings.world_size = world;
      settings.rows_per_micro_batch = per_rank;
      Sampler sampler(settings);
      ASSERT_EQ(sampler.num_steps(), reference.num_steps());
      for (int64_t step = 0; step < sampler.num_steps(); ++step) {
        ASSERT_EQ(rows_taken(sampler, settings, step), reference.rows_of_step(step)) << world << " " << per_rank;
      }
    }
  }
}

TEST(Sampler, TakesEachRowOnceAnEpoch) {
  SamplerSettings settings{.num_rows = 37, .global_batch_rows = 8, .num_train_epochs = 3};
  Sampler sampler(settings);
  EXPECT_EQ(sampler.num_steps(), 14);  // 111 rows
  std::vector<int64_t> stream;
  for (int64_t step = 0; step < sampler.num_steps(); ++step) {
    const auto rows = sampler.rows_of_step(step);
    stream.insert(stream.end(), rows.begin(), rows.end());
  }
  ASSERT_EQ(stream.size(), 111u);
  std::set<std::vector<int64_t>> orders;
  for (long epoch = 0; epoch < 3; ++epoch) {
    const std::vector<int64_t> order(stream.begin() + epoch * 37, stream.begin() + (epoch + 1) * 37);
    EXPECT_EQ(sorted(order), all_rows(37));
    orders.insert(order);
  }
  EXPECT_EQ(orders.size(), 3u) << "every epoch has an order of its own";
}

TEST(Sampler, RunsOnIntoFurtherEpochsForAGivenNumberOfSteps) {
  Sampler sampler({.num_rows = 5, .global_batch_rows = 8, .max_steps = 3});
  EXPECT_EQ(sampler.num_steps(), 3);
  std::map<int64_t, int> times;
  for (int64_t step = 0; step < 3; ++step) {
    const auto rows = sampler.rows_of_step(step);
    EXPECT_EQ(rows.size(), 8u);
    for (const int64_t row : rows) ++times[row];
  }
  for (const auto& [row, count] : times) EXPECT_TRUE(count == 4 || count == 5) << row;  // 24 rows of 5
  EXPECT_DOUBLE_EQ(sampler.epoch_at(0), 0.0);
  EXPECT_DOUBLE_EQ(sampler.epoch_at(3), 24.0 / 5.0);
}

TEST(Sampler, GivesStepsInAnyOrderSoThatARunCanResume) {
  const SamplerSettings settings{.num_rows = 11, .global_batch_rows = 4, .num_train_epochs = 5};
  Sampler forward(settings);
  std::vector<std::vector<int64_t>> steps;
  for (int64_t step = 0; step < forward.num_steps(); ++step) steps.push_back(forward.rows_of_step(step));
  Sampler backward(settings);
  for (int64_t step = forward.num_steps() - 1; step >= 0; --step) {
    EXPECT_EQ(backward.rows_of_step(step), steps[static_cast<size_t>(step)]);
  }
}

TEST(Sampler, LeavesSharesEmptyInAShortLastStepButCountsMicroBatchesAlike) {
  SamplerSettings settings{.num_rows = 9, .global_batch_rows = 8, .rows_per_micro_batch = 2, .world_size = 2};
  Sampler sampler(settings);
  EXPECT_EQ(sampler.num_steps(), 2);
  EXPECT_EQ(sampler.num_micro_batches(0), 2);
  EXPECT_EQ(sampler.num_micro_batches(1), 1);
  EXPECT_EQ(sampler.rows_of(1, 0, 0).size(), 1u);
  EXPECT_EQ(sampler.rows_of(1, 0, 1).size(), 0u);
}

TEST(Sampler, MapsSharesByMicroBatchThenRank) {
  SamplerSettings settings{
      .num_rows = 8, .global_batch_rows = 8, .rows_per_micro_batch = 2, .world_size = 2, .shuffle = false};
  Sampler sampler(settings);
  EXPECT_THAT(sampler.rows_of(0, 0, 0), ElementsAre(0, 1));
  EXPECT_THAT(sampler.rows_of(0, 0, 1), ElementsAre(2, 3));
  EXPECT_THAT(sampler.rows_of(0, 1, 0), ElementsAre(4, 5));
  EXPECT_THAT(sampler.rows_of(0, 1, 1), ElementsAre(6, 7));
}

TEST(Sampler, RefusesSettingsThatAreNotPositive) {
  try {
    Sampler sampler({.num_rows = 5, .global_batch_rows = 0});
    FAIL();
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), HasSubstr("train.global_batch_size: must be at least 1, is 0"));
  }
  EXPECT_THROW(Sampler({.num_rows = 0}), ConfigError);
  EXPECT_THROW(Sampler({.num_rows = 5, .max_steps = 0}), ConfigError);
  EXPECT_THROW(Sampler({.num_rows = 5}).rows_of_step(5), Error);
}

TEST(EpochOrder, DependsOnSeedAndEpochOnly) {
  EXPECT_EQ(epoch_order(100, 1, 0), epoch_order(100, 1, 0));
  EXPECT_NE(epoch_order(100, 1, 0), epoch_order(100, 2, 0));
  EXPECT_NE(epoch_order(100, 1, 0), epoch_order(100, 1, 1));
  EXPECT_NE(epoch_order(100, 0, 1), epoch_order(100, 1, 0));
}

// Written down once, made by an independent program: a change would silently reorder the data of every resumed run.
TEST(EpochOrder, IsTheSameOnEveryMachine) {
  EXPECT_THAT(epoch_order(10, 42, 0), ElementsAre(4, 3, 1, 8, 0, 7, 2, 9, 6, 5));
  EXPECT_EQ(random64(0, 0), 0xe220a8397b1dcdafull);  // SplitMix64's published first number for seed 0
}

TEST(EpochOrder, PutsEveryRowAtEveryPlaceEquallyOften) {
  constexpr int kRows = 8, kTrials = 16'000;
  std::vector<int> count(kRows * kRows, 0);
  for (int trial = 0; trial < kTrials; ++trial) {
    const auto order = epoch_order(kRows, 7, trial);
    for (size_t place = 0; place < kRows; ++place) ++count[place * kRows + static_cast<size_t>(order[place])];
  }
  double chi_squared = 0;
  for (const int c : count) chi_squared += (c - 2000.0) * (c - 2000.0) / 2000.0;
  EXPECT_LT(chi_squared, 94.0);  // 49 degrees of freedom: exceeded by chance once in 10,000
}

}  // namespace
}  // namespace rankwise
