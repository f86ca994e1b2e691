#include "launcher/supervisor.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "base/log.h"
#include "tests/support/expect_error.h"
#include "tests/support/scratch_directory.h"

namespace rankwise {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

const StopPolicy kAskByUsr1{.ask = [](pid_t program) { ::kill(program, SIGUSR1); }, .may_end = nullptr};

Outcome run_shell(const std::string& script, const StopPolicy& policy = kAskByUsr1) {
  return Supervisor().run({"sh", "-c", script}, policy);
}

TEST(Supervisor, PassesTheExitCodeOn) {
  EXPECT_EQ(run_shell("exit 0").code, 0);
  EXPECT_EQ(run_shell("exit 75").code, 75);
  EXPECT_EQ(run_shell("kill -9 $$").code, 137);
  EXPECT_FALSE(run_shell("exit 3").stop_requested);
}

TEST(Supervisor, KeepsTheLineThatNamesTheError) {
  EXPECT_EQ(run_shell("echo 'x.jsonl:3: error: no' >&2; echo '-----' >&2; echo bye >&2; exit 65").last_error,
            "x.jsonl:3: error: no");
  EXPECT_EQ(run_shell("echo one >&2; printf two >&2; exit 1").last_error, "two");
  EXPECT_EQ(run_shell("exit 1").last_error, "");
}

TEST(Supervisor, ForProgramsItsLinesBecomeOnesOfTheLog) {
  const std::string ours = json_log_line(LogLevel::kError, 1, "lost", {});
  set_log_format(LogFormat::kJson);
  ::testing::internal::CaptureStderr();
  const Outcome outcome = run_shell("printf '%s\\n----\\nmpirun noticed\\nthat rank 1 died\\n----\\n' '" + ours +
                                    "' >&2; printf end >&2; exit 3");
  std::istringstream lines(::testing::internal::GetCapturedStderr());
  set_log_format(LogFormat::kText);
  std::string line, rest;
  std::getline(lines, line);
  EXPECT_EQ(line, ours);
  for (; std::getline(lines, line); rest += read_log_line(line).message + "|") EXPECT_TRUE(read_log_line(line).is_json);
  EXPECT_EQ(rest, "mpirun noticed\nthat rank 1 died|end|");
  EXPECT_EQ(outcome.last_error, "lost");
}

TEST(Supervisor, WhatCannotBeStartedIsSaid) {
  EXPECT_ERROR((Supervisor().run({"/nowhere/mpirun"}, kAskByUsr1)), Error, "start /nowhere/mpirun");
}

// The script signals its parent, us, once its traps are set: no race and no sleep.
TEST(Supervisor, TheFirstSignalAsksTheProgram) {
  for (const char* signal : {"TERM", "INT", "HUP", "USR1"}) {
    const Outcome outcome =
        run_shell(std::string("trap 'exit 75' USR1; kill -") + signal + " $PPID; while :; do sleep 0.1; done");
    EXPECT_EQ(outcome.code, 75) << signal;
    EXPECT_TRUE(outcome.stop_requested) << signal;
  }
}

TEST(Supervisor, AsksAgainWhereTheFirstTimeWasTooEarly) {
  StopPolicy policy = kAskByUsr1;
  policy.grace = seconds(15);  // SIGTERM after 5 s, where nobody asks again
  const std::string deaf_once = "trap 'trap \"exit 75\" USR1' USR1; kill -TERM $PPID; while :; do sleep 0.1; done";
  EXPECT_EQ(run_shell(deaf_once, policy).code, 75);
}

TEST(Supervisor, ASignalThatComesWhenAllIsOverDoesNotEndUs) {
  EXPECT_EXIT(
      {
        {
          const Supervisor supervisor;
          ::kill(::getpid(), SIGTERM);
        }
        ::_exit(5);
      },
      ::testing::ExitedWithCode(5), "");
}

TEST(Supervisor, TheSecondSignalEndsIt) {
  const Outcome outcome =
      run_shell("trap 'kill -INT $PPID' USR1; trap 'exit 9' TERM; kill -INT $PPID; while :; do sleep 0.1; done");
  EXPECT_EQ(outcome.code, 9);
}

TEST(Supervisor, GraceEnds) {
  StopPolicy policy = kAskByUsr1;
  policy.grace = seconds(10);  // SIGTERM at once, SIGKILL after 8 s
  EXPECT_EQ(run_shell("trap '' USR1; trap 'exit 9' TERM; kill -INT $PPID; while :; do sleep 0.1; done", policy).code,
            9);
  policy.grace = seconds(2);  // both at once
  EXPECT_EQ(run_shell("trap '' USR1 TERM; kill -INT $PPID; while :; do sleep 0.1; done", policy).code, 137);
}

TEST(Supervisor, EndsAProgramThatServesOthersWhenTheyAreDone) {
  bool asked = false;
  const StopPolicy policy{.ask = [&](pid_t) { asked = true; }, .may_end = [&] { return asked; }};
  EXPECT_EQ(run_shell("trap 'exit 9' TERM; kill -TERM $PPID; while :; do sleep 0.1; done", policy).code, 9);
}

// By SIGKILL alone: a script that could answer SIGTERM does not come to it.
TEST(Supervisor, EndsAProgramThatStaysWhenItsWorkIsOver) {
  StopPolicy policy = kAskByUsr1;
  policy.says_it_is_over = [](std::string_view message) { return message == "no progress"; };
  policy.farewell = seconds(0);
  const Outcome stayed = run_shell("trap 'exit 9' TERM; echo no progress >&2; while :; do sleep 0.1; done", policy);
  EXPECT_EQ(stayed.code, 137);
  EXPECT_TRUE(stayed.overstayed);
  EXPECT_FALSE(stayed.stop_requested);
  policy.farewell = seconds(100);
  const Outcome went = run_shell("echo no progress >&2; exit 71", policy);
  EXPECT_EQ(went.code, 71);
  EXPECT_FALSE(went.overstayed);
  EXPECT_TRUE(went.said_over);
}

TEST(Supervisor, LeavesNobodyBehind) {
  const testing::ScratchDirectory scratch;
  const auto file = scratch.path() / "pid";
  run_shell("setsid sh -c 'echo $$ >" + file.native() + "; exec sleep 1000' & while [ ! -s " + file.native() +
            " ]; do sleep 0.05; done; exit 0");
  pid_t pid = 0;
  std::ifstream(file) >> pid;
  ASSERT_GT(pid, 0);
  EXPECT_EQ(::kill(pid, 0), -1) << "process " << pid << " is still there";
}

TEST(Supervisor, APauseEndsWithASignal) {
  Supervisor supervisor;
  EXPECT_FALSE(supervisor.stopped_within(milliseconds(1)));
  ::kill(::getpid(), SIGTERM);
  EXPECT_TRUE(supervisor.stopped_within(seconds(100)));
  EXPECT_TRUE(supervisor.stopped_within(milliseconds(0)));
}

TEST(Supervisor, TheProgramIsOutOfTheReachOfTheTerminal) {
  constexpr auto kScript = "[ \"$(cut -d' ' -f5 /proc/$$/stat)\" = $$ ] || exit 1; read x && exit 2; exit 0";
  EXPECT_EQ(run_shell(kScript).code, 0) << "1: not the leader of a process group; 2: it can read our input";
}

}  // namespace
}  // namespace rankwise
