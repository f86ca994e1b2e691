#include "trainer/checkpoint/trainer_state.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <random>

#include "small_checkpoint.h"

namespace rankwise::testing {
namespace {

using ::testing::HasSubstr;

TrainerState sample() {
  return {.step = 120,
          .optimizer_steps = 119,
          .epoch = 2,
          .epoch_rows = 384,
          .input_tokens = uint64_t{1} << 53,
          .target_tokens = 77,
          .train_seconds = 0.1,
          .best_eval = BestEval{.loss = 3.6180339887498949, .step = 100}};
}

std::string replaced(const std::string& from, const std::string& to) {
  std::string text = trainer_state_to_json(sample());
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

std::string refusal(const std::string& text) {
  const Thrown thrown = error_of([&] { trainer_state_from_json(text, "state.json"); });
  EXPECT_EQ(thrown.code, 65) << text;
  EXPECT_THAT(thrown.message, HasSubstr("state.json"));
  return thrown.message;
}

TEST(TrainerState, ComesBackAsItWas) {
  EXPECT_EQ(trainer_state_from_json(trainer_state_to_json(sample()), "x"), sample());
  EXPECT_EQ(trainer_state_from_json(trainer_state_to_json({}), "x"), TrainerState{});
}

TEST(TrainerState, KeepsEveryBitOfADouble) {
  std::mt19937_64 generator(20);
  std::vector<double> values = {0.0,
                                -0.0,
                                1.0,
                                -1.5,
                                0.1,
                                std::numeric_limits<double>::denorm_min(),
                                std::numeric_limits<double>::max(),
                                std::numeric_limits<double>::infinity(),
                                -std::numeric_limits<double>::infinity()};
  while (values.size() < 2000) {
    const double value = std::bit_cast<double>(generator());
    if (!std::isnan(value)) values.push_back(value);
  }
  for (const double value : values) {
    const TrainerState read =
        trainer_state_from_json(trainer_state_to_json({.train_seconds = value, .best_eval = {}}), "x");
    ASSERT_EQ(std::bit_cast<uint64_t>(read.train_seconds), std::bit_cast<uint64_t>(value)) << value;
  }
}

TEST(TrainerState, ANanLossCanBeSaved) {
  TrainerState state = sample();
  state.best_eval->loss = std::numeric_limits<double>::quiet_NaN();
  EXPECT_TRUE(std::isnan(trainer_state_from_json(trainer_state_to_json(state), "x").best_eval->loss));
}

TEST(TrainerState, AnythingElseIsRefused) {
  EXPECT_THAT(refusal(replaced("\"epoch\": 2", "\"epoch\": -2")), HasSubstr("epoch"));
  EXPECT_THAT(refusal(replaced("\"epoch\": 2", "\"epoch\": 2.0")), HasSubstr("epoch"));
  EXPECT_THAT(refusal(replaced("\"epoch\": 2", "\"epoch\": 18446744073709551616")), HasSubstr("state.json"));
  EXPECT_THAT(refusal(replaced("\"epoch\": 2,", "")), HasSubstr("\"epoch\" is missing"));
  EXPECT_THAT(refusal(replaced("\"epoch\": 2", "\"epoch\": 2, \"epoch\": 2")), HasSubstr("duplicate"));
  EXPECT_THAT(refusal(replaced("\"epoch\": 2", "\"epoch\": 2, \"era\": 2")), HasSubstr("\"era\" is not a known key"));
  EXPECT_THAT(refusal(replaced("\"step\": 100", "\"step\": null")), HasSubstr("best_eval.step"));
  for (const std::string number : {"0.1", "\"0.1\"", "\"0x\"", "\"\"", "\" 0x1p+0\"", "\"0x1p+0 \"", "\"0x1.0p+0\"",
                                   "\"0x1p+99999\"", "\"0X1P+0\"", "null"}) {
    EXPECT_THAT(refusal(replaced("\"0x1.999999999999ap-4\"", number)), HasSubstr("train_seconds")) << number;
  }
}

TEST(TrainerState, OfAnotherStepThanItsCheckpointIsRefused) {
  const ScratchDirectory scratch;
  const RunDirectory run(scratch / "run", "state");
  const auto write = [](const std::filesystem::path& directory) { write_trainer_state(directory, sample()); };
  EXPECT_EQ(read_trainer_state(save_checkpoint(run, 120, {}, write)), sample());
  const CheckpointInfo wrong = save_checkpoint(run, 121, {}, write);
  EXPECT_THAT(error_of([&] { read_trainer_state(wrong); }).message,
              HasSubstr("is of step 120, the checkpoint of step 121"));
}

}  // namespace
}  // namespace rankwise::testing
