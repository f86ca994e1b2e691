#include "base/log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

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

TEST(Log, TakesAMessageWithBracesAsItIs) {
  CaptureStderr();
  log_message(LogLevel::kInfo, "{} 100% %v");
  EXPECT_THAT(GetCapturedStderr(), ::testing::HasSubstr("{} 100% %v\n"));
}

}  // namespace
}  // namespace rankwise
