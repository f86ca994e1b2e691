#include "trainer/data/prepare.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include <set>
#include <thread>

#include "base/error.h"
#include "tests/unit/data/test_files.h"
#include "tests/unit/data/tiny_model.h"
#include "trainer/data/batcher.h"

namespace rankwise {
namespace {

using ::testing::HasSubstr;
using testing::make_tiny_tokenizer;
using testing::message_of;
using ::testing::Not;
using testing::read_text;
using testing::ScratchDirectory;

class PrepareTest : public ::testing::Test {
 protected:
  PrepareTest() {
    settings_.cache_dir = dir_ / "cache";
    settings_.max_length = 16;
  }

  DatasetCache prepare(const DataSettings& settings) {
    num_calls_ = 0;
    return prepare_dataset(settings, tokenizer_, nullptr, [this](const PrepareProgress& progress) {
      ++num_calls_;
      last_progress_ = progress;
    });
  }
  void use_texts(const std::vector<std::string>& texts) {
    std::string lines;
    for (const std::string& text : texts) lines += "{\"text\": \"" + text + "\"}\n";
    use_lines(lines);
  }
  void use_lines(const std::string& lines) {
    settings_.files = {{dir_.add("train.jsonl", lines), RecordFormat::kText}};
  }
  std::filesystem::path cache_file() const {
    for (const auto& entry : std::filesystem::directory_iterator(settings_.cache_dir)) {
      if (entry.path().extension() == ".tokens") return entry.path();
    }
    return {};
  }
  std::set<std::string> texts_of(const DatasetCache& data) const {
    std::set<std::string> texts;
    for (int64_t s = 0; s < data.num_samples(); ++s) {
      std::vector<int32_t> ids;
      for (const uint32_t token : data.tokens_of_sample(static_cast<uint64_t>(s))) {
        ids.push_back(static_cast<int32_t>(token & ~kCarriesLoss));
      }
      texts.insert(tokenizer_.decode(ids, true));
    }
    return texts;
  }

  ScratchDirectory dir_;
  Tokenizer tokenizer_ = make_tiny_tokenizer(dir_.path());
  DataSettings settings_;
  int num_calls_ = 0;
  PrepareProgress last_progress_;
};

TEST_F(PrepareTest, MakesTheDataSetOnceAndReusesIt) {
  use_texts({"one", "two", "three"});
  const DatasetCache first = prepare(settings_);
  EXPECT_GT(num_calls_, 0);
  EXPECT_EQ(last_progress_.bytes_read, last_progress_.bytes_total);
  EXPECT_EQ(last_progress_.num_samples, 3);
  const DatasetCache second = prepare(settings_);
  EXPECT_EQ(num_calls_, 0);
  EXPECT_EQ(first.key(), second.key());
  EXPECT_EQ(texts_of(second), (std::set<std::string>{"one", "two", "three"}));
  EXPECT_EQ(second.report().num_samples, 3);
}

TEST_F(PrepareTest, AMovedFileKeepsItsCache) {
  use_texts({"one"});
  prepare(settings_);
  std::filesystem::rename(settings_.files[0].path, dir_ / "moved.jsonl");
  settings_.files[0].path = dir_ / "moved.jsonl";
  prepare(settings_);
  EXPECT_EQ(num_calls_, 0);
}

TEST_F(PrepareTest, EverythingThatChangesTheTokensChangesTheKey) {
  use_texts({"one", "two"});
  std::set<std::string> keys = {prepare(settings_).key()};
  std::vector<DataSettings> others(7, settings_);
  others[0].max_length = 17;
  others[1].packing = false;
  others[2].loss_on = LossOn::kAll;
  others[3].over_length = OverLength::kDrop;
  others[4].split_seed = 43;
  others[5].eval_fraction = 0.5;
  others[6].files.push_back(settings_.files[0]);
  for (const DataSettings& other : others) keys.insert(prepare(other).key());
  use_texts({"one", "twO"});
  keys.insert(prepare(settings_).key());
  ScratchDirectory other_model;
  const Tokenizer other = make_tiny_tokenizer(other_model.path(), {.adds_bos = true});
  keys.insert(prepare_dataset(settings_, other, nullptr, {}).key());
  EXPECT_EQ(keys.size(), 10u);
}

TEST_F(PrepareTest, ADamagedCacheIsMadeAgain) {
  use_texts({"one", "two", "three"});
  prepare(settings_);
  const auto file = cache_file();
  const std::string good = read_text(file);
  std::string bad = good;
  bad[4097] = static_cast<char>(bad[4097] ^ 1);
  for (const std::string& content : {bad, good.substr(0, good.size() - 8), good.substr(0, 10), std::string()}) {
    std::ofstream(file, std::ios::binary) << content;
    prepare(settings_);
    EXPECT_GT(num_calls_, 0);
    EXPECT_EQ(read_text(file), good);
  }
}

TEST_F(PrepareTest, PacksSamplesIntoRows) {
  use_texts({"aaaaaaaaa", "bbbb", "cccccc", "dddd", "e"});  // with EOS: 10, 5, 7, 5, 2 tokens
  const DatasetCache packed = prepare(settings_);
  EXPECT_EQ(packed.num_rows(), 2);  // 10+5, 7+5+2
  EXPECT_DOUBLE_EQ(packed.report().fill_ratio(), 29.0 / 32.0);
  settings_.packing = false;
  EXPECT_EQ(prepare(settings_).num_rows(), 5);
}

TEST_F(PrepareTest, CountsWhatBecameOfEachRecord) {
  use_lines("{\"text\": \"fits\"}\n\n{\"text\": \"far too long for sixteen\"}\n{\"text\": \"\"}\n{\"text\": \"ok\"}\n");
  settings_.over_length = OverLength::kDrop;
  DataReport report = prepare(settings_).report();
  EXPECT_EQ(report.num_records, 4);
  EXPECT_EQ(report.num_blank_lines, 1);
  EXPECT_EQ(report.num_dropped_too_long, 1);
  EXPECT_EQ(report.num_dropped_no_target, 1);
  EXPECT_EQ(report.num_samples, 2);
  EXPECT_EQ(report.num_tokens, 8);
  EXPECT_EQ(report.num_target_tokens, 6);
  settings_.over_length = OverLength::kTruncateRight;
  report = prepare(settings_).report();
  EXPECT_EQ(report.num_truncated, 1);
  EXPECT_EQ(report.num_samples, 3);
  EXPECT_EQ(report.num_tokens, 8 + 16);
}

TEST_F(PrepareTest, AnswersThatTruncationCutsOffAreDropped) {
  settings_.files = {{dir_.add("train.jsonl",
                               "{\"prompt\": \"0123456789abcdefgh\", \"completion\": \"y\"}\n"
                               "{\"prompt\": \"0\", \"completion\": \"y\"}\n"),
                      RecordFormat::kPromptCompletion}};
  settings_.over_length = OverLength::kTruncateRight;
  const DataReport report = prepare(settings_).report();
  EXPECT_EQ(report.num_dropped_no_target, 1);
  EXPECT_EQ(report.num_samples, 1);
  EXPECT_EQ(report.num_truncated, 0);
}

TEST_F(PrepareTest, TooLongIsAnErrorByDefaultWithItsLine) {
  use_texts({"fits", "far too long for sixteen"});
  const auto message = message_of<DataError>([&] { prepare(settings_); });
  EXPECT_THAT(message, HasSubstr("train.jsonl:2: the sample has 25 tokens, more than data.max_length 16"));
  EXPECT_THAT(message, Not(HasSubstr("far too")));
}

TEST_F(PrepareTest, BadRecordsLeaveNothingBehind) {
  use_lines("{\"text\": \"fits\"}\nzebra\n");
  EXPECT_THAT(message_of<DataError>([&] { prepare(settings_); }), HasSubstr("train.jsonl:2:1: "));
  for (const auto& entry : std::filesystem::directory_iterator(settings_.cache_dir)) {
    EXPECT_EQ(entry.path().extension(), ".lock");
  }
}

TEST_F(PrepareTest, NoSampleLeftIsAnErrorWithTheCounts) {
  use_lines("");
  EXPECT_THAT(message_of<DataError>([&] { prepare(settings_); }),
              HasSubstr("no sample is left to learn from: 0 records"));
  use_texts({"", "", "far too long for sixteen"});
  settings_.over_length = OverLength::kDrop;
  EXPECT_THAT(
      message_of<DataError>([&] { prepare(settings_); }),
      HasSubstr("3 records, 0 in the other part of the split, 1 dropped as longer than max_length 16, 2 dropped"));
}

TEST_F(PrepareTest, SplitsByRecordWithoutOverlapOrLoss) {
  std::vector<std::string> texts;
  for (int i = 0; i < 1000; ++i) texts.push_back("t" + std::to_string(i));
  use_texts(texts);
  settings_.eval_fraction = 0.1;
  settings_.part = DataPart::kTrain;
  const DatasetCache train = prepare(settings_);
  settings_.part = DataPart::kEval;
  const DatasetCache eval = prepare(settings_);
  std::set<std::string> both = texts_of(train);
  both.merge(texts_of(eval));
  EXPECT_EQ(both.size(), 1000u);
  EXPECT_EQ(train.num_samples() + eval.num_samples(), 1000);
  EXPECT_NEAR(static_cast<double>(eval.num_samples()), 100.0, 30.0);
  EXPECT_EQ(train.report().num_in_other_part, eval.num_samples());
}

TEST_F(PrepareTest, SeveralFilesBecomeOneDataSetInTheirOrder) {
  use_texts({"one"});
  settings_.files.push_back(
      {dir_.add("more.jsonl", "{\"prompt\": \"p\", \"completion\": \"c\"}\n"), RecordFormat::kPromptCompletion});
  settings_.packing = false;
  const DatasetCache data = prepare(settings_);
  const int64_t rows[] = {0, 1};
  const Batch batch = make_batch(data, rows);
  EXPECT_THAT(batch.ids, ::testing::ElementsAre('o', 'n', 'e', testing::kEndOfText, 'p', 'c', testing::kEndOfText));
  EXPECT_THAT(batch.target_rows, ::testing::ElementsAre(0, 1, 2, 4, 5));
}

TEST_F(PrepareTest, AnAbsentFileHasTheExitCodeOfAMissingInput) {
  settings_.files = {{"/nonexistent/train.jsonl", RecordFormat::kText}};
  try {
    prepare(settings_);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kNoInput);
  }
}

TEST_F(PrepareTest, ACacheDirectoryThatCannotBeMadeIsAnErrorOfTheOutput) {
  use_texts({"one"});
  settings_.cache_dir = dir_.add("file", "in the way") / "cache";
  try {
    prepare(settings_);
    FAIL() << "made";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kCannotWrite);
    EXPECT_THAT(error.what(), HasSubstr("data.cache_dir: cannot create " + settings_.cache_dir.string()));
  }
}

TEST_F(PrepareTest, AKilledPreparationLeavesNothingThatLooksWhole) {
  std::vector<std::string> texts(20'000, "some text here");
  use_texts(texts);
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    prepare_dataset(settings_, tokenizer_, nullptr, [](const PrepareProgress&) { ::raise(SIGKILL); });
    ::_exit(0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(cache_file(), "");
  EXPECT_EQ(prepare(settings_).num_samples(), 20'000);
}

TEST_F(PrepareTest, ASecondProcessWaitsForTheFirstAndUsesItsFile) {
  use_texts({"one", "two"});
  const auto key = prepare(settings_).key();
  const std::string made = read_text(cache_file());
  std::filesystem::remove(cache_file());
  // Stands for another process in the middle of its work.
  const int lock = ::open((settings_.cache_dir / (key + ".lock")).c_str(), O_RDWR);
  ASSERT_EQ(::flock(lock, LOCK_EX), 0);
  std::atomic<bool> done = false;
  std::thread waiting([&] {
    prepare(settings_);
    done = true;
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  EXPECT_FALSE(done);
  std::ofstream(settings_.cache_dir / (key + ".tokens"), std::ios::binary) << made;
  ::close(lock);
  waiting.join();
  EXPECT_EQ(num_calls_, 0) << "the file of the other process was used";
}

TEST_F(PrepareTest, RefusesSettingsThatMakeNoSense) {
  EXPECT_THROW(prepare(settings_), ConfigError);  // no file
  use_texts({"one"});
  settings_.max_length = 1;
  EXPECT_THROW(prepare(settings_), ConfigError);
  settings_.max_length = 16;
  settings_.part = DataPart::kEval;
  EXPECT_THROW(prepare(settings_), ConfigError);
}

TEST(Settings, WordsAreThoseOfTheConfiguration) {
  EXPECT_EQ(word_of(record_format_from("prompt_completion")), "prompt_completion");
  EXPECT_EQ(word_of(loss_on_from("assistant")), "assistant");
  EXPECT_EQ(word_of(over_length_from("truncate_left")), "truncate_left");
  EXPECT_THAT(message_of<ConfigError>([] { record_format_from("chatml"); }),
              HasSubstr("format: \"chatml\" is not one of messages, prompt_completion, alpaca, sharegpt, text"));
}

}  // namespace
}  // namespace rankwise
