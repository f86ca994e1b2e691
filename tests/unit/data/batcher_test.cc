#include "trainer/data/batcher.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/data/test_files.h"
#include "trainer/data/dataset_writer.h"

namespace rankwise {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using testing::ScratchDirectory;

class BatcherTest : public ::testing::Test {
 protected:
  BatcherTest() {
    const std::string key(64, 'k');
    DatasetWriter writer(dir_.path() / "data");
    writer.add({{5, 6, 7}, {0, 1, 1}});
    writer.add({{8, 9}, {1, 1}});
    writer.add({{10, 11, 12}, {1, 0, 1}});
    writer.finish(pack_best_fit(writer.lengths(), 5), key, {});
    data_ = DatasetCache::open(dir_.path() / "data", key);
  }

  ScratchDirectory dir_;
  std::optional<DatasetCache> data_;
};

TEST_F(BatcherTest, LaysSamplesEndToEndAndRestartsPositions) {
  const int64_t rows[] = {0, 1};  // samples 0 and 1, then 2
  const Batch batch = make_batch(*data_, rows);
  EXPECT_THAT(batch.ids, ElementsAre(5, 6, 7, 8, 9, 10, 11, 12));
  EXPECT_THAT(batch.positions, ElementsAre(0, 1, 2, 0, 1, 0, 1, 2));
  EXPECT_THAT(batch.sample_starts, ElementsAre(0, 3, 5, 8));
  EXPECT_THAT(batch.sample_ids, ElementsAre(0, 1, 2));
}

TEST_F(BatcherTest, PredictsEachTargetFromTheRowBeforeItInTheSameSample) {
  const int64_t rows[] = {0, 1};
  const Batch batch = make_batch(*data_, rows);
  EXPECT_THAT(batch.target_rows, ElementsAre(0, 1, 3, 6));  // never 2 or 4, whose next token begins another sample
  EXPECT_THAT(batch.targets, ElementsAre(6, 7, 9, 12));
}

TEST_F(BatcherTest, KeepsTheOrderOfTheRows) {
  const int64_t rows[] = {1, 0};
  EXPECT_THAT(make_batch(*data_, rows).sample_ids, ElementsAre(2, 0, 1));
}

TEST_F(BatcherTest, CountsTheTargetsOfTheReport) {
  const int64_t rows[] = {0, 1};
  EXPECT_EQ(make_batch(*data_, rows).num_targets(), data_->report().num_target_tokens);
}

TEST_F(BatcherTest, AnEmptyShareIsOneTokenWithoutATarget) {
  const Batch batch = make_batch(*data_, {});
  EXPECT_THAT(batch.ids, ElementsAre(0));
  EXPECT_THAT(batch.positions, ElementsAre(0));
  EXPECT_THAT(batch.sample_starts, ElementsAre(0, 1));
  EXPECT_THAT(batch.sample_ids, ElementsAre(-1));
  EXPECT_THAT(batch.target_rows, IsEmpty());
  EXPECT_THAT(batch.targets, IsEmpty());
}

}  // namespace
}  // namespace rankwise
