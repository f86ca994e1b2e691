#include "trainer/checkpoint/run_directory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <optional>
#include <thread>

#include "disk_faults.h"
#include "small_checkpoint.h"

namespace rankwise::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST(RunDirectory, IsMadeWithItsParents) {
  const ScratchDirectory scratch;
  const RunDirectory run(scratch.path() / "a" / "b", "first");
  EXPECT_THAT(names_in(scratch.path() / "a" / "b"), ElementsAre("LOCK"));
}

TEST(RunDirectory, IsKnownByItsAbsolutePath) {
  const ScratchDirectory scratch;
  const RunDirectory run(fs::relative(scratch.path()) / "run" / ".", "first");
  EXPECT_EQ(run.path().lexically_normal(), run.path());
  EXPECT_TRUE(run.path().is_absolute());
  EXPECT_TRUE(fs::equivalent(run.path(), scratch / "run"));
}

TEST(RunDirectory, ASecondJobFailsAtOnceNamingTheFirst) {
  const ScratchDirectory scratch;
  const RunDirectory first(scratch / "run", "the-first");
  std::array<char, 256> host{};
  ASSERT_EQ(::gethostname(host.data(), host.size() - 1), 0);
  const auto start = std::chrono::steady_clock::now();
  const Thrown thrown = error_of([&] { RunDirectory second(scratch / "run", "the-second"); });
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(2));
  EXPECT_EQ(thrown.code, 73);
  EXPECT_THAT(thrown.message, AllOf(HasSubstr("pid " + std::to_string(::getpid())), HasSubstr(host.data()),
                                    HasSubstr("run the-first"), HasSubstr((scratch / "run").string())));
}

TEST(RunDirectory, IsFreeAgainAfterItsOwner) {
  const ScratchDirectory scratch;
  { const RunDirectory first(scratch / "run", "first"); }
  EXPECT_EQ(error_of([&] { RunDirectory second(scratch / "run", "second"); }).code, 0);
}

TEST(RunDirectory, IsFreeAgainAfterItsOwnerWasKilled) {
  const ScratchDirectory scratch;
  const Shared<std::atomic<bool>> is_held;
  const pid_t owner = ::fork();
  if (owner == 0) {
    const RunDirectory run(scratch / "run", "victim");
    *is_held = true;
    while (true) ::pause();
  }
  for (int wait = 0; !*is_held && wait < 10'000; ++wait) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_THAT(error_of([&] { RunDirectory second(scratch / "run", "second"); }).message,
              HasSubstr("pid " + std::to_string(owner)));
  ::kill(owner, SIGKILL);
  ASSERT_EQ(::waitpid(owner, nullptr, 0), owner);
  EXPECT_EQ(error_of([&] { RunDirectory second(scratch / "run", "second"); }).code, 0);
}

TEST(RunDirectory, OfManyThatStartTogetherOneWins) {
  const ScratchDirectory scratch;
  const Shared<std::array<int, 8>> codes;
  std::array<pid_t, 8> jobs{};
  for (size_t job = 0; job < jobs.size(); ++job) {
    jobs[job] = ::fork();
    if (jobs[job] != 0) continue;
    std::optional<RunDirectory> run;
    (*codes)[job] = error_of([&] { run.emplace(scratch / "run", "job"); }).code;
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    ::_exit(0);
  }
  for (const pid_t job : jobs) ASSERT_EQ(::waitpid(job, nullptr, 0), job);
  EXPECT_EQ(std::ranges::count(*codes, 0), 1);
  EXPECT_EQ(std::ranges::count(*codes, 73), 7);
}

TEST(RunDirectory, RemovesOnlyWhatDeadWritersLeft) {
  const ScratchDirectory scratch;
  for (const std::string name : {"tmp.5.123", "tmp.notes", "tmp.5", "tmp.05.1", "tmp.5.1.old", "mytmp.5.1", "final"}) {
    fs::create_directories(scratch / "run" / name / "inside");
  }
  const RunDirectory run(scratch / "run", "next");
  EXPECT_THAT(names_in(run.path()),
              ElementsAre("LOCK", "final", "mytmp.5.1", "tmp.05.1", "tmp.5", "tmp.5.1.old", "tmp.notes"));
}

TEST(RunDirectory, ThatCannotBeMadeIsAnErrorOfTheOutput) {
  const ScratchDirectory scratch;
  write_carelessly(scratch / "file", "in the way");
  EXPECT_EQ(error_of([&] { RunDirectory run(scratch / "file", "x"); }).code, 73);
  EXPECT_EQ(error_of([&] { RunDirectory run(scratch / "file" / "run", "x"); }).code, 73);
}

TEST(ListCheckpointSteps, AreNumbersInOrderAndNothingElse) {
  const ScratchDirectory scratch;
  for (const std::string name : {"checkpoint-10", "checkpoint-9", "checkpoint-0", "checkpoint-01", "checkpoint--1",
                                 "checkpoint-1x", "checkpoint-99999999999999999999", "Checkpoint-4", "tmp.3.1"}) {
    fs::create_directory(scratch / name);
  }
  write_carelessly(scratch / "checkpoint-77", "a file");
  EXPECT_THAT(list_checkpoint_steps(scratch.path()), ElementsAre(0, 9, 10));
  EXPECT_THAT(list_checkpoint_steps(scratch / "nowhere"), IsEmpty());
}

}  // namespace
}  // namespace rankwise::testing
