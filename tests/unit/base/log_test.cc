#include "base/log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>
#include <string>

#include "base/error.h"
#include "tests/support/expect_error.h"

namespace rankwise {
namespace {

using ::testing::MatchesRegex;
using ::testing::internal::CaptureStderr;
using ::testing::internal::CaptureStdout;
using ::testing::internal::GetCapturedStderr;
using ::testing::internal::GetCapturedStdout;

constexpr const char* kTime = "[0-9][0-9]:[0-9][0-9]:[0-9][0-9] ";

TEST(Log, GoesToStderrAndLeavesStdoutAlone) {
  CaptureStdout();
  CaptureStderr();
  log_info("loaded {} tensors", 12);
  EXPECT_THAT(GetCapturedStderr(), MatchesRegex(kTime + std::string("info loaded 12 tensors\n")));
  EXPECT_EQ(GetCapturedStdout(), "");
}

TEST(Log, ShowsTheRankOfOtherRanksOnly) {
  CaptureStderr();
  init_log(3, LogLevel::kInfo);
  log_error("lost");
  init_log(0, LogLevel::kInfo);
  log_warning("slow");
  EXPECT_THAT(GetCapturedStderr(),
              MatchesRegex(kTime + std::string("error rank 3: lost\n") + kTime + "warning slow\n"));
}

TEST(Log, HidesWhatIsBelowItsLevel) {
  init_log(0, LogLevel::kWarning);
  CaptureStderr();
  log_info("hidden");
  init_log(0, LogLevel::kInfo);
  log_message(LogLevel::kDebug, "hidden");
  EXPECT_EQ(GetCapturedStderr(), "");
}

TEST(Log, TellsAListenerWhatIsShown) {
  std::string heard;
  CaptureStderr();
  set_log_listener([&](std::string_view line) { heard.append(line).push_back('|'); });
  log_warning("slow {}", 1);
  log_message(LogLevel::kDebug, "hidden");
  set_log_listener(nullptr);
  log_error("later");
  GetCapturedStderr();
  EXPECT_EQ(heard, "warning: slow 1|");
}

TEST(Log, SpeaksToProgramsWhereThatIsAskedFor) {
  std::string heard;
  set_log_listener([&](std::string_view line) { heard.append(line).push_back('|'); });
  init_log(2, LogLevel::kInfo);
  set_log_format(LogFormat::kJson);
  CaptureStderr();
  log_message(LogLevel::kWarning, "slow", {.event = "wait", .step = 4});
  log_message(LogLevel::kDebug, "hidden");
  log_event("step 5", {.event = "step", .step = 5});
  log_last_words("no progress");
  std::istringstream lines(GetCapturedStderr());
  set_log_format(LogFormat::kText);
  init_log(0, LogLevel::kInfo);
  set_log_listener(nullptr);
  std::string seen;
  for (std::string line; std::getline(lines, line);) {
    const auto json = nlohmann::json::parse(line);
    EXPECT_EQ(json["rank"], 2);
    seen += json["level"].get<std::string>() + " " + json["message"].get<std::string>() + "|";
  }
  EXPECT_EQ(seen, "warning slow|info step 5|error no progress|");
  EXPECT_EQ(heard, "warning: slow|");
}

TEST(Log, TellsPeopleNothingTwice) {
  CaptureStderr();
  log_event("step 5", {.event = "step"});
  log_last_words("no progress");
  EXPECT_EQ(GetCapturedStderr(), "rankwise: no progress\n");
}

TEST(Log, KnowsItsFormatsByName) {
  EXPECT_EQ(log_format_named("json", "--log-format"), LogFormat::kJson);
  EXPECT_EQ(log_format_named("text", "--log-format"), LogFormat::kText);
  EXPECT_ERROR(log_format_named("yaml", "--log-format"), UsageError, "--log-format", "yaml", "text or json");
}

TEST(Log, TakesAMessageWithBracesAsItIs) {
  CaptureStderr();
  log_message(LogLevel::kInfo, "{} 100% %v");
  EXPECT_THAT(GetCapturedStderr(), ::testing::HasSubstr("{} 100% %v\n"));
}

}  // namespace
}  // namespace rankwise
