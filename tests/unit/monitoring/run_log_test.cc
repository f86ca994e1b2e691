#include "monitoring/run_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/error.h"
#include "tests/support/scratch_directory.h"

namespace rankwise {
namespace {

using Json = nlohmann::ordered_json;
using rankwise::testing::ScratchDirectory;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

std::string content(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

std::vector<Json> lines(const std::filesystem::path& path) {
  std::istringstream text(content(path));
  std::vector<Json> all;
  for (std::string line; std::getline(text, line);) all.push_back(Json::parse(line));
  return all;
}

std::vector<int64_t> steps(const std::filesystem::path& path) {
  std::vector<int64_t> all;
  for (const Json& line : lines(path)) all.push_back(line["step"]);
  return all;
}

void append(const std::filesystem::path& path, std::string_view text) { std::ofstream(path, std::ios::app) << text; }

StepMetrics step_at(int64_t step) {
  return {.step = step,
          .epoch = 0.25,
          .loss = 4.0 - 0.1 * static_cast<double>(step),
          .gradient_norm = 1.5,
          .learning_rate = 1e-3,
          .input_tokens = 1000,
          .target_tokens = 250,
          .step_seconds = 2.0,
          .peak_memory_bytes = 123456789};
}

class RunLogTest : public ::testing::Test {
 protected:
  ScratchDirectory directory_;
  std::filesystem::path path_ = directory_ / "train_log.jsonl";
};

TEST_F(RunLogTest, WritesTheDocumentedKeysInOrder) {
  RunLog log(path_, 0);
  log.write_step(step_at(10));
  log.write_eval(10, 3.5, 15034);
  EXPECT_EQ(content(path_),
            "{\"step\":10,\"epoch\":0.25,\"loss\":3.0,\"grad_norm\":1.5,\"learning_rate\":0.001,\"target_tokens\":250,"
            "\"input_tokens\":1000,\"tokens_per_second\":500.0,\"step_seconds\":2.0,\"peak_memory_bytes\":123456789}\n"
            "{\"step\":10,\"eval_loss\":3.5,\"eval_target_tokens\":15034}\n");
}

TEST_F(RunLogTest, ANumberThatIsNotFiniteIsNull) {
  RunLog log(path_, 0);
  auto step = step_at(1);
  step.loss = std::numeric_limits<double>::infinity();
  step.gradient_norm = std::numeric_limits<double>::quiet_NaN();
  log.write_step(step);
  EXPECT_TRUE(lines(path_).at(0)["loss"].is_null());
  EXPECT_TRUE(lines(path_).at(0)["grad_norm"].is_null());
}

TEST_F(RunLogTest, AfterAResumeEachStepIsThereOnce) {
  {
    RunLog log(path_, 0);
    for (int64_t step = 1; step <= 7; ++step) log.write_step(step_at(step));
    log.write_eval(5, 3.5, 10);
    log.write_eval(7, 3.3, 10);
  }
  RunLog log(path_, 6);  // from checkpoint-5
  EXPECT_THAT(steps(path_), ElementsAre(1, 2, 3, 4, 5, 5));
  for (int64_t step = 6; step <= 8; ++step) log.write_step(step_at(step));
  EXPECT_THAT(steps(path_), ElementsAre(1, 2, 3, 4, 5, 5, 6, 7, 8));
}

TEST_F(RunLogTest, TheCurvesHoldWhatCameBeforeTheResumeToo) {
  {
    RunLog log(path_, 0);
    log.write_eval(0, 4.5, 10);
    for (int64_t step = 1; step <= 4; ++step) log.write_step(step_at(step));
  }
  RunLog log(path_, 3);
  log.write_step(step_at(3));
  ASSERT_EQ(log.curves().train.size(), 3u);
  EXPECT_EQ(log.curves().train.at(0).loss, 3.9);
  EXPECT_EQ(log.curves().train.at(2).step, 3);
  ASSERT_EQ(log.curves().eval.size(), 1u);
  EXPECT_EQ(log.curves().eval.at(0).loss, 4.5);
}

TEST_F(RunLogTest, ALineTornByAKillIsRemoved) {
  {
    RunLog log(path_, 0);
    log.write_step(step_at(1));
    log.write_step(step_at(2));
  }
  const std::string whole = content(path_);
  append(path_, "{\"step\":3,\"epoch\":0.2");
  RunLog log(path_, 5);
  EXPECT_EQ(content(path_), whole);
  log.write_step(step_at(5));
  EXPECT_THAT(steps(path_), ElementsAre(1, 2, 5));
}

TEST_F(RunLogTest, ALineWithoutItsNewlineIsTorn) {
  append(path_, "{\"step\":1,\"loss\":2.0}\n{\"step\":2,\"loss\":2.0}");
  RunLog log(path_, 5);
  EXPECT_THAT(steps(path_), ElementsAre(1));
}

TEST_F(RunLogTest, DamageInTheMiddleCostsOnlyItsOwnLines) {
  append(path_, "{\"step\":1,\"loss\":2.0}\n");
  append(path_, std::string(40, '\0') + "\n[1]\n{\"step\":\"2\"}\n{\"loss\":1}\n\n");
  append(path_, "{\"step\":3,\"loss\":2.5}\n");
  RunLog log(path_, 5);
  EXPECT_THAT(steps(path_), ElementsAre(1, 3));
}

TEST_F(RunLogTest, AFreshRunEmptiesAnOldLog) {
  append(path_, "{\"step\":1,\"loss\":2.0}\n");
  RunLog log(path_, 0);
  EXPECT_EQ(content(path_), "");
  EXPECT_TRUE(log.curves().train.empty());
}

TEST_F(RunLogTest, AResumeWithoutALogStartsOne) {
  RunLog log(path_, 11);
  log.write_step(step_at(11));
  EXPECT_THAT(steps(path_), ElementsAre(11));
}

TEST_F(RunLogTest, ALogWithoutAFileWritesNothing) {
  RunLog log;
  log.write_step(step_at(1));
  log.write_eval(1, 3.0, 5);
  log.sync();
  EXPECT_TRUE(log.curves().train.empty());
}

// Stands for a full disk: the kernel takes a part of the line and refuses the rest.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    ::signal(SIGXFSZ, SIG_IGN);
    ::getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit{bytes, before_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() { ::setrlimit(RLIMIT_FSIZE, &before_); }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;

 private:
  rlimit before_{};
};

TEST_F(RunLogTest, ALineThatDoesNotFitIsLeftOutWhole) {
  RunLog log(path_, 0);
  log.write_step(step_at(1));
  const std::string whole = content(path_);
  {
    const FileSizeLimit limit(whole.size() + 20);
    EXPECT_THROW(log.write_step(step_at(2)), Error);
  }
  EXPECT_EQ(content(path_), whole);
  EXPECT_EQ(log.curves().train.size(), 1u);
  log.write_step(step_at(3));
  EXPECT_THAT(steps(path_), ElementsAre(1, 3));
}

TEST_F(RunLogTest, AMissingDirectoryIsNamed) {
  EXPECT_THAT([this] { RunLog log(directory_ / "absent/train_log.jsonl", 0); },
              ThrowsMessage<Error>(HasSubstr("absent")));
}

}  // namespace
}  // namespace rankwise
