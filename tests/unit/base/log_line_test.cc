#include "base/log_line.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>
#include <string>

namespace rankwise {
namespace {

using ::testing::MatchesRegex;
using ::testing::StartsWith;

nlohmann::json line_of(LogLevel level, int rank, std::string_view message, const LogFacts& facts = {}) {
  return nlohmann::json::parse(json_log_line(level, rank, message, facts));
}

TEST(LogLine, SaysWhenWhoWhereAndWhat) {
  const auto line = line_of(LogLevel::kWarning, 3, "lost");
  EXPECT_THAT(line["time"].get<std::string>(),
              MatchesRegex("20..-[01].-[0-3].T[0-2].:[0-5].:[0-6].[.][0-9][0-9][0-9]Z"));
  EXPECT_EQ(line["level"], "warning");
  EXPECT_EQ(line["rank"], 3);
  EXPECT_NE(line["host"], "");
  EXPECT_EQ(line["message"], "lost");
  EXPECT_EQ(line.size(), 5u) << "no event, step or fields where there are none";
}

TEST(LogLine, AProgramWithoutRanksHasNone) { EXPECT_TRUE(line_of(LogLevel::kInfo, -1, "x")["rank"].is_null()); }

TEST(LogLine, HoldsTheFactsInTheirTypes) {
  const LogFacts facts{.event = "step", .step = 7, .fields = {{"loss", 2.5}, {"left", int64_t{3}}, {"state", "ok"}}};
  const auto line = line_of(LogLevel::kInfo, 0, "", facts);
  EXPECT_EQ(line["event"], "step");
  EXPECT_EQ(line["step"], 7);
  EXPECT_EQ(line["loss"], 2.5);
  EXPECT_EQ(line["left"], 3);
  EXPECT_EQ(line["state"], "ok");
}

TEST(LogLine, ANumberThatIsNotFiniteIsNull) {
  for (const double number : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()})
    EXPECT_TRUE(line_of(LogLevel::kInfo, 0, "", {.fields = {{"loss", number}}})["loss"].is_null());
}

TEST(LogLine, IsOneLineOfUtf8WhateverTheMessage) {
  const std::string line = json_log_line(LogLevel::kInfo, 0, "a\n\"b\"\r\x01\xff", {});
  EXPECT_EQ(line.find_first_of("\n\r"), std::string::npos);
  EXPECT_EQ(nlohmann::json::parse(line)["message"], "a\n\"b\"\r\x01\xEF\xBF\xBD");
}

TEST(LogLine, ALongMessageLosesItsEndSoThatNoPipeTearsTheLine) {
  for (const char* piece : {"a", "\x01", "\xff", "\xc3\xa4"}) {
    std::string message = "begin ";
    while (message.size() < 100'000) message += piece;
    const std::string line = json_log_line(LogLevel::kInfo, 0, message, {});
    EXPECT_LT(line.size(), 4096u);
    EXPECT_THAT(nlohmann::json::parse(line)["message"].get<std::string>(), StartsWith("begin "));
  }
}

TEST(LogLine, IsReadAgain) {
  const LogLine error = read_log_line(json_log_line(LogLevel::kError, 1, "no \"x\"", {}));
  EXPECT_TRUE(error.is_json && error.is_error);
  EXPECT_EQ(error.message, "no \"x\"");
  EXPECT_FALSE(read_log_line(json_log_line(LogLevel::kWarning, 1, "an error", {})).is_error);
}

TEST(LogLine, OtherLinesAreTheirOwnMessage) {
  for (const char* line : {"", "{", "{}", "{\"level\":1}", "[1]", "step 1/2"}) {
    const LogLine read = read_log_line(line);
    EXPECT_FALSE(read.is_json || read.is_error) << line;
    EXPECT_EQ(read.message, line);
  }
  EXPECT_TRUE(read_log_line("12:00:00 error rank 1: lost").is_error);
  EXPECT_TRUE(read_log_line("rankwise: no such file").is_error);
}

}  // namespace
}  // namespace rankwise
