#include "monitoring/progress.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "base/log.h"
#include "base/unique_handle.h"

namespace rankwise {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using ::testing::Not;
using ::testing::StartsWith;

StepMetrics step_at(int64_t step) {
  return {.step = step,
          .loss = 3.61234,
          .learning_rate = 2e-4,
          .input_tokens = 2468,
          .step_seconds = 2.0,
          .peak_memory_bytes = 1'423'000'000};
}

ProgressView view_at(int64_t step) {
  return {.step = step_at(step), .total_steps = 200, .seconds_elapsed = 100, .seconds_left = 83};
}

// Collects what is written to a descriptor.
class Pipe {
 public:
  Pipe() {
    int ends[2];
    EXPECT_EQ(::pipe(ends), 0);
    read_.reset(ends[0]);
    write_.reset(ends[1]);
  }
  int fd() const { return write_.get(); }
  std::string text() {
    write_.reset();
    std::string all;
    char buffer[4096];
    for (ssize_t n; (n = ::read(read_.get(), buffer, sizeof(buffer))) > 0;) all.append(buffer, static_cast<size_t>(n));
    return all;
  }

 private:
  UniqueFd read_;
  UniqueFd write_;
};

TEST(LiveLine, ShowsEverythingWhereThereIsRoom) {
  EXPECT_EQ(format_live_line(view_at(104), 120),
            "[==============>             ]   52%  step 104/200  loss 3.6123  1,234 tok/s  1.42 GB  1:23 left");
}

TEST(LiveLine, NeverExceedsTheWidth) {
  for (size_t columns = 1; columns <= 200; ++columns) {
    const std::string line = format_live_line(view_at(104), columns);
    EXPECT_LE(line.size(), columns) << line;
    EXPECT_EQ(line.find_first_of("\n\r\t"), std::string::npos);
  }
}

TEST(LiveLine, GivesUpTheLeastImportantFirst) {
  EXPECT_EQ(format_live_line(view_at(104), 79),
            "[=====>     ]   52%  step 104/200  loss 3.6123  1,234 tok/s  1.42 GB  1:23 left");
  EXPECT_EQ(format_live_line(view_at(104), 72), " 52%  step 104/200  loss 3.6123  1,234 tok/s  1.42 GB  1:23 left");
  EXPECT_EQ(format_live_line(view_at(104), 20), " 52%  step 104/200");
}

TEST(LiveLine, TheBarIsFullAtTheEndAndEmptyAtTheStart) {
  EXPECT_THAT(format_live_line(view_at(200), 120), StartsWith("[============================]  100%"));
  EXPECT_THAT(format_live_line(view_at(0), 120), StartsWith("[>                           ]    0%"));
  EXPECT_THAT(format_live_line(view_at(199), 120), HasSubstr(" 99%"));
}

TEST(LiveLine, WithoutATotalThereIsNoBarAndNoTimeLeft) {
  ProgressView view{.step = step_at(104), .total_steps = {}, .seconds_elapsed = 100, .seconds_left = {}};
  EXPECT_EQ(format_live_line(view, 120), "step 104  loss 3.6123  1,234 tok/s  1.42 GB  1:40");
  EXPECT_EQ(format_plain_line(view), "step 104  loss 3.6123  lr 2.00e-04  1,234 tok/s  1.42 GB  1:40");
}

TEST(LiveLine, MoreStepsThanTheTotalStayAtAllOfIt) {
  EXPECT_THAT(format_live_line(view_at(1000), 120), HasSubstr("100%"));
}

TEST(LiveLine, ALossThatIsNotANumberIsShownAsSuch) {
  auto view = view_at(1);
  view.step.loss = std::numeric_limits<double>::quiet_NaN();
  EXPECT_THAT(format_live_line(view, 120), HasSubstr("loss nan"));
}

TEST(PlainLine, HasTheSameFacts) {
  EXPECT_EQ(format_plain_line(view_at(104)),
            "step 104/200 (52%)  loss 3.6123  lr 2.00e-04  1,234 tok/s  1.42 GB  1:23 left");
}

TEST(Units, Durations) {
  EXPECT_EQ(format_duration(0), "0:00");
  EXPECT_EQ(format_duration(59.6), "1:00");
  EXPECT_EQ(format_duration(83), "1:23");
  EXPECT_EQ(format_duration(7384), "2:03:04");
  EXPECT_EQ(format_duration(3 * 86400 + 4 * 3600 + 300), "3 d 04:05");
  EXPECT_EQ(format_duration(std::numeric_limits<double>::infinity()), "?");
}

TEST(Units, Bytes) {
  EXPECT_EQ(format_bytes(950'000'000), "950 MB");
  EXPECT_EQ(format_bytes(999'600'000), "1.00 GB");
  EXPECT_EQ(format_bytes(1'423'000'000), "1.42 GB");
}

TEST(Progress, OutsideATerminalALineComesEveryLoggingStepAndAfterTheLast) {
  Pipe pipe;
  {
    Progress progress(
        {.terminal = {.style = ProgressStyle::kPlain}, .total_steps = 25, .logging_steps = 10, .fd = pipe.fd()});
    for (int64_t step = 1; step <= 25; ++step) progress.step(step_at(step));
  }
  EXPECT_THAT(pipe.text(), MatchesRegex("step 10/25 [^\n]*\nstep 20/25 [^\n]*\nstep 25/25 [^\n]*0:00 left\n"));
}

TEST(Progress, AsEventsItIsTheSameLinesWithTheirFacts) {
  const Terminal events{.style = ProgressStyle::kEvents};
  set_log_format(LogFormat::kJson);
  ::testing::internal::CaptureStderr();
  { ProgressPhase phase(events, "loading weights"); }
  {
    Progress progress({.terminal = events, .total_steps = 25, .logging_steps = 10});
    for (int64_t step = 1; step <= 25; ++step) progress.step(step_at(step));
    progress.note("step 25: eval loss 3.5", {.event = "evaluation", .step = 25});
  }
  std::istringstream lines(::testing::internal::GetCapturedStderr());
  set_log_format(LogFormat::kText);
  std::vector<nlohmann::json> seen;
  for (std::string line; std::getline(lines, line);) seen.push_back(nlohmann::json::parse(line));
  ASSERT_EQ(seen.size(), 6u);
  EXPECT_EQ(seen[0]["message"], "loading weights ...");
  EXPECT_GE(seen[1]["seconds"], 0);
  EXPECT_EQ(seen[2]["event"], "step");
  EXPECT_EQ(seen[2]["step"], 10);
  EXPECT_EQ(seen[2]["total_steps"], 25);
  EXPECT_EQ(seen[2]["loss"], 3.61234);
  EXPECT_EQ(seen[2]["tokens_per_second"], 1234);
  EXPECT_THAT(seen[2]["message"].get<std::string>(), StartsWith("step 10/25 (40%)  loss 3.6123"));
  EXPECT_EQ(seen[4]["step"], 25);
  EXPECT_EQ(seen[5]["event"], "evaluation");
}

TEST(Progress, OnATerminalOneLineIsDrawnInPlaceAndEndedOnce) {
  Pipe pipe;
  {
    Progress progress({.terminal = {.style = ProgressStyle::kLive, .columns = 60}, .total_steps = 2, .fd = pipe.fd()});
    progress.step(step_at(1));
    progress.step(step_at(2));
    progress.finish();
  }
  EXPECT_THAT(pipe.text(), MatchesRegex("\r\x1b\\[K[^\r\n]*step 1/2[^\r\n]*\r\x1b\\[K[^\r\n]*step 2/2[^\r\n]*\n"));
}

TEST(Progress, ANoteStaysAboveTheLiveLine) {
  Pipe pipe;
  {
    Progress progress({.terminal = {.style = ProgressStyle::kLive}, .total_steps = 2, .fd = pipe.fd()});
    progress.step(step_at(1));
    progress.note("step 1: eval loss 3.5");
  }
  EXPECT_THAT(pipe.text(),
              MatchesRegex("\r[^\r\n]*step 1/2[^\r\n]*\r\x1b\\[Kstep 1: eval loss 3.5\n[^\r\n]*step 1/2[^\r\n]*\n"));
}

TEST(Progress, TheTimeLeftIsThatOfTheStepsStillToDoAfterAResume) {
  Pipe pipe;
  {
    // One step done in this process, at once: what is left is next to nothing, whatever was done before.
    Progress progress({.terminal = {}, .total_steps = 1000, .start_step = 500, .fd = pipe.fd()});
    progress.step(step_at(501));
  }
  EXPECT_THAT(pipe.text(), HasSubstr("step 501/1000"));
}

TEST(Progress, TheOtherRanksAreSilent) {
  EXPECT_EQ(detect_terminal(1).style, ProgressStyle::kSilent);
  Pipe pipe;
  {
    const Terminal silent{.style = ProgressStyle::kSilent};
    ProgressPhase phase(silent, "loading weights", pipe.fd());
    Progress progress({.terminal = silent, .total_steps = 2, .fd = pipe.fd()});
    progress.step(step_at(1));
    progress.note("text");
  }
  EXPECT_EQ(pipe.text(), "");
}

TEST(Progress, AClosedStreamDoesNotEndTheRun) {
  Progress progress({.terminal = {}, .total_steps = 2, .fd = -1});
  progress.step(step_at(1));
}

TEST(ProgressPhase, SaysHowLongItTook) {
  Pipe pipe;
  { ProgressPhase phase({.style = ProgressStyle::kPlain}, "loading weights", pipe.fd()); }
  EXPECT_EQ(pipe.text(), "loading weights ...\nloading weights ... 0.0 s\n");
}

TEST(ProgressPhase, IsOneLineOnATerminal) {
  Pipe pipe;
  { ProgressPhase phase({.style = ProgressStyle::kLive}, "loading weights", pipe.fd()); }
  EXPECT_EQ(pipe.text(), "loading weights ...\r\x1b[Kloading weights ... 0.0 s\n");
}

TEST(ProgressPhase, SaysThatItFailed) {
  Pipe pipe;
  try {
    ProgressPhase phase({.style = ProgressStyle::kPlain}, "loading weights", pipe.fd());
    throw std::runtime_error("no such file");
  } catch (const std::runtime_error&) {
  }
  EXPECT_THAT(pipe.text(), EndsWith("loading weights ... failed after 0.0 s\n"));
}

TEST(Terminal, ProgramsGetEventsWhereverStderrLeads) {
  set_log_format(LogFormat::kJson);
  EXPECT_EQ(detect_terminal(0).style, ProgressStyle::kEvents);
  EXPECT_EQ(detect_terminal(1).style, ProgressStyle::kSilent);
  set_log_format(LogFormat::kText);
  EXPECT_NE(detect_terminal(0).style, ProgressStyle::kEvents);
}

TEST(Terminal, TheEnvironmentDecidesWhereItIsSet) {
  for (const auto& [word, style] : {std::pair{"live", ProgressStyle::kLive}, std::pair{"plain", ProgressStyle::kPlain},
                                    std::pair{"silent", ProgressStyle::kSilent}}) {
    ::setenv("RANKWISE_PROGRESS", word, 1);
    EXPECT_EQ(detect_terminal(0).style, style);
    EXPECT_EQ(detect_terminal(1).style, ProgressStyle::kSilent);
  }
  ::unsetenv("RANKWISE_PROGRESS");
}

}  // namespace
}  // namespace rankwise
