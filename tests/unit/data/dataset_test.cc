#include "trainer/data/dataset.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/counter_random.h"
#include "base/error.h"
#include "tests/unit/data/test_files.h"
#include "trainer/data/dataset_writer.h"

namespace rankwise {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::message_of;
using testing::read_text;
using testing::ScratchDirectory;

const std::string kKey(64, 'a');

void write_three_samples(const std::filesystem::path& path) {
  DatasetWriter writer(path);
  writer.add({{5, 6, 7}, {0, 0, 1}});
  writer.add({{8}, {1}});
  writer.add({{9, 10, 11}, {1, 1, 1}});
  EXPECT_THAT(writer.lengths(), ElementsAre(3, 1, 3));
  DataReport report;
  report.num_records = 4;
  report.num_dropped_no_target = 1;
  report.row_capacity = 4;
  writer.finish(pack_best_fit(writer.lengths(), 4), kKey, report);
}

TEST(Dataset, GivesBackWhatWasWritten) {
  ScratchDirectory dir;
  const auto path = dir.path() / "data";
  write_three_samples(path);
  const auto data = DatasetCache::open(path, kKey);
  ASSERT_TRUE(data);
  EXPECT_EQ(data->key(), kKey);
  EXPECT_EQ(data->num_samples(), 3);
  EXPECT_EQ(data->num_rows(), 2);
  EXPECT_THAT(data->samples_of_row(0), ElementsAre(0, 1));
  EXPECT_THAT(data->samples_of_row(1), ElementsAre(2));
  EXPECT_THAT(data->tokens_of_sample(0), ElementsAre(5, 6, 7 | kCarriesLoss));
  EXPECT_THAT(data->tokens_of_sample(1), ElementsAre(8 | kCarriesLoss));
  EXPECT_THROW(data->samples_of_row(2), Error);
  EXPECT_THROW(data->samples_of_row(-1), Error);
}

TEST(Dataset, KeepsTheReportAndCountsTargetsThatHaveATokenBeforeThem) {
  ScratchDirectory dir;
  write_three_samples(dir.path() / "data");
  const DataReport report = DatasetCache::open(dir.path() / "data", kKey)->report();
  EXPECT_EQ(report.num_records, 4);
  EXPECT_EQ(report.num_dropped_no_target, 1);
  EXPECT_EQ(report.num_samples, 3);
  EXPECT_EQ(report.num_tokens, 7);
  EXPECT_EQ(report.num_target_tokens, 1 + 0 + 2);
  EXPECT_EQ(report.num_rows, 2);
  EXPECT_DOUBLE_EQ(report.fill_ratio(), 7.0 / 8.0);
}

TEST(Dataset, HoldsMoreTokensThanOneBlockOfTheWriter) {
  ScratchDirectory dir;
  const auto path = dir.path() / "data";
  const auto id_at = [](size_t sample, size_t i) { return static_cast<int32_t>(random_below(sample, i, 50'000)); };
  constexpr size_t kSamples = 700, kLength = 1001;  // 2.8 MB, an odd number of tokens a sample
  DatasetWriter writer(path);
  for (size_t s = 0; s < kSamples; ++s) {
    EncodedSample sample{std::vector<int32_t>(kLength), std::vector<uint8_t>(kLength, 1)};
    for (size_t i = 0; i < kLength; ++i) sample.ids[i] = id_at(s, i);
    writer.add(sample);
  }
  writer.finish(one_sample_a_row(kSamples), kKey, {});
  const auto data = DatasetCache::open(path, kKey);
  ASSERT_TRUE(data);
  for (size_t s = 0; s < kSamples; ++s) {
    const auto tokens = data->tokens_of_sample(s);
    ASSERT_EQ(tokens.size(), kLength);
    for (size_t i = 0; i < kLength; ++i) ASSERT_EQ(tokens[i], static_cast<uint32_t>(id_at(s, i)) | kCarriesLoss);
  }
}

TEST(Dataset, AbsentFileIsNoError) { EXPECT_FALSE(DatasetCache::open("/nonexistent/data", kKey)); }

TEST(Dataset, SeesEverySingleChangedByte) {
  ScratchDirectory dir;
  const auto path = dir.path() / "data";
  write_three_samples(path);
  const std::string good = read_text(path);
  int unused = 0;
  for (size_t i = 0; i < good.size(); ++i) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ 0x10);
    dir.add("data", bad);
    try {
      DatasetCache::open(path, kKey);
      ++unused;  // the rest of the header's page
      ASSERT_TRUE(i < 4096 && i > 128) << i;
      ASSERT_EQ(good[i], '\0') << i;
    } catch (const DataError&) {
    }
  }
  EXPECT_LT(unused, 4000);
}

TEST(Dataset, SeesAFileThatWasCutOrThatGrew) {
  ScratchDirectory dir;
  const auto path = dir.path() / "data";
  write_three_samples(path);
  const std::string good = read_text(path);
  for (const size_t size : {size_t{0}, size_t{100}, size_t{4096}, good.size() - 8, good.size() - 1}) {
    dir.add("data", good.substr(0, size));
    EXPECT_THROW(DatasetCache::open(path, kKey), DataError) << size;
  }
  dir.add("data", good + '\0');
  EXPECT_THAT(message_of<DataError>([&] { DatasetCache::open(path, kKey); }), HasSubstr("the header says"));
}

TEST(Dataset, RefusesAnotherKey) {
  ScratchDirectory dir;
  const auto path = dir.path() / "data";
  write_three_samples(path);
  EXPECT_THAT(message_of<DataError>([&] { DatasetCache::open(path, std::string(64, 'b')); }),
              HasSubstr("made from other data or settings"));
}

TEST(Dataset, AFileWithoutItsHeaderIsNotTakenForWhole) {
  ScratchDirectory dir;
  const auto path = dir.path() / "data";
  {
    DatasetWriter writer(path);
    for (int i = 0; i < 3000; ++i) writer.add({std::vector<int32_t>(200, 1), std::vector<uint8_t>(200, 1)});
  }  // killed before finish()
  EXPECT_GT(std::filesystem::file_size(path), 4096u);
  EXPECT_THAT(message_of<DataError>([&] { DatasetCache::open(path, kKey); }), HasSubstr("not a prepared data set"));
}

}  // namespace
}  // namespace rankwise
