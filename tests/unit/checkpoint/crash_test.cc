// Kills and power cuts after every operation of the writer, and the same for writers that are wrong on purpose: a test
// that cannot catch those would prove nothing.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <functional>
#include <random>
#include <thread>

#include "base/file.h"
#include "base/hash.h"
#include "disk_faults.h"
#include "small_checkpoint.h"
#include "trainer/checkpoint/resume.h"
#include "trainer/checkpoint/retention.h"

namespace rankwise::testing {
namespace {

namespace fs = std::filesystem;
using Fault = DiskPlan::Fault;
using namespace std::chrono_literals;

// Saves steps 1, 2, 3 and keeps two of them; tells the journal after each.
using Writer = std::function<void(const fs::path& run_directory, Journal& journal)>;

void good_writer(const fs::path& run_directory, Journal& journal) {
  const RunDirectory run(run_directory, "good");
  for (int step = 1; step <= 3; ++step) {
    save_small(run, static_cast<uint64_t>(step));
    journal.acknowledged_step = step;
    prune_checkpoints(run, 2, std::nullopt);
  }
}

void deletes_before_it_saves(const fs::path& run_directory, Journal& journal) {
  const RunDirectory run(run_directory, "bad");
  for (int step = 1; step <= 3; ++step) {
    fs::remove_all(checkpoint_path(run_directory, static_cast<uint64_t>(step - 1)));
    save_small(run, static_cast<uint64_t>(step));
    journal.acknowledged_step = step;
  }
}

// The same files, manifest and rename as the good writer's, synced or not.
void rename_by_hand(const fs::path& run_directory, Journal& journal, bool sync_files) {
  fs::create_directories(run_directory);
  for (int step = 1; step <= 3; ++step) {
    const fs::path work = run_directory / fmt::format("tmp.{}.1", step);
    fs::create_directories(work / kTrainerStateDirectory);
    const auto write = [&](const std::string& name, const std::string& content) {
      sync_files ? write_new_file(work / name, content) : write_carelessly(work / name, content);
    };
    Manifest manifest{
        .run_id = "bad", .step = static_cast<uint64_t>(step), .fingerprint = small_fingerprint(), .files = {}};
    for (const std::string& file : small_files()) {
      const std::string content = content_of(file, manifest.step);
      write(file, content);
      manifest.files.push_back({file, content.size(), sha256_hex(content)});
    }
    write(std::string(kManifestName), manifest_to_json(manifest));
    fs::rename(work, checkpoint_path(run_directory, manifest.step));
    journal.acknowledged_step = step;
  }
}

void renames_without_any_sync(const fs::path& run_directory, Journal& journal) {
  rename_by_hand(run_directory, journal, false);
}

void renames_without_directory_sync(const fs::path& run_directory, Journal& journal) {
  rename_by_hand(run_directory, journal, true);
}

int wait_for(pid_t child) {
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return status;
}

// Runs the writer in a child on a watched disk; returns its exit code.
int run_in_child(const Writer& writer, const fs::path& root, const DiskPlan& plan, Journal& journal) {
  const pid_t child = ::fork();
  if (child == 0) {
    try {
      const WatchedDisk disk(root, plan, journal);
      writer(root / "nested" / "run", journal);
    } catch (const std::exception& error) {
      std::fprintf(stderr, "writer: %s\n", error.what());
      ::_exit(1);
    }
    ::_exit(0);
  }
  return WEXITSTATUS(wait_for(child));
}

// Empty if what lies in the run directory honours what was acknowledged, and training can go on there.
std::string check_after(const fs::path& run_directory, int acknowledged_step) {
  const auto newest = find_resumable(run_directory).newest;
  const uint64_t newest_step = newest ? newest->manifest.step : 0;
  if (newest_step < static_cast<uint64_t>(acknowledged_step)) {
    return fmt::format("step {} was acknowledged, newest is {}", acknowledged_step, newest_step);
  }
  if (newest && !is_of_one_step(*newest)) return fmt::format("step {} is mixed", newest_step);
  const RunDirectory run(run_directory, "next");
  save_small(run, newest_step + 1);
  for (const std::string& name : names_in(run_directory)) {
    if (name.starts_with("tmp.")) return name + " was left";
  }
  return find_resumable(run_directory).newest->manifest.step == newest_step + 1 ? ""
                                                                                : "the next save is not the newest";
}

int count_operations(const Writer& writer) {
  const ScratchDirectory scratch;
  const Shared<Journal> journal;
  EXPECT_EQ(run_in_child(writer, scratch.path(), {}, *journal), 0);
  EXPECT_EQ(journal->acknowledged_step, 3);
  return journal->num_events;
}

struct Outcome {
  int num_cases = 0;
  int num_violations = 0;
  std::string first_violation;
  void add(int number, const std::string& violation) {
    ++num_cases;
    if (violation.empty()) return;
    if (num_violations++ == 0) first_violation = fmt::format("case {}: {}", number, violation);
  }
};

Outcome crash_everywhere(const Writer& writer, std::optional<Lost> power_cut) {
  const int num_operations = count_operations(writer);
  Outcome outcome;
  for (int k = 1; k <= num_operations; ++k) {
    const ScratchDirectory scratch;
    const Shared<Journal> journal;
    EXPECT_EQ(run_in_child(writer, scratch.path(), {.fault = Fault::kCrashAfter, .at = k, .error = 0}, *journal),
              kCrashExitCode);
    if (power_cut) cut_power(*journal, *power_cut);
    outcome.add(k, check_after(scratch / "nested" / "run", journal->acknowledged_step));
  }
  return outcome;
}

TEST(Crash, AfterAnyOperationTheAcknowledgedCheckpointLoads) {
  const Outcome outcome = crash_everywhere(good_writer, std::nullopt);
  EXPECT_EQ(outcome.num_violations, 0) << outcome.first_violation;
  EXPECT_GT(outcome.num_cases, 100);
  RecordProperty("crash_points", outcome.num_cases);
}

TEST(Crash, OfAWriterThatDeletesBeforeItSavesIsCaught) {
  EXPECT_GT(crash_everywhere(deletes_before_it_saves, std::nullopt).num_violations, 0);
}

class PowerCut : public ::testing::TestWithParam<Lost> {};

TEST_P(PowerCut, AfterAnyOperationTheAcknowledgedCheckpointLoads) {
  const Outcome outcome = crash_everywhere(good_writer, GetParam());
  EXPECT_EQ(outcome.num_violations, 0) << outcome.first_violation;
}

INSTANTIATE_TEST_SUITE_P(Losing, PowerCut, ::testing::Values(Lost::kData, Lost::kNames, Lost::kBoth));

// A kill does not show a missing fsync: only the power cut tells these two from the good writer.
TEST(PowerCutControl, WriterWithoutAnySyncIsCaught) {
  EXPECT_EQ(crash_everywhere(renames_without_any_sync, std::nullopt).num_violations, 0);
  EXPECT_GT(crash_everywhere(renames_without_any_sync, Lost::kData).num_violations, 0);
}

TEST(PowerCutControl, WriterWithoutDirectorySyncIsCaught) {
  EXPECT_EQ(crash_everywhere(renames_without_directory_sync, Lost::kData).num_violations, 0);
  EXPECT_GT(crash_everywhere(renames_without_directory_sync, Lost::kNames).num_violations, 0);
}

// Save one step after another until killed.
using Victim = void (*)(const RunDirectory& run, uint64_t step, int& acknowledged_step);

void good_step(const RunDirectory& run, uint64_t step, int& acknowledged_step) {
  save_small(run, step);
  acknowledged_step = static_cast<int>(step);
  prune_checkpoints(run, 2, std::nullopt);
}

void deletes_first(const RunDirectory& run, uint64_t step, int& acknowledged_step) {
  fs::remove_all(checkpoint_path(run.path(), step - 1));
  save_small(run, step);
  acknowledged_step = static_cast<int>(step);
}

struct Report {
  std::atomic<bool> started;
  std::atomic<int64_t> first_save_microseconds;  // 0 until it is done
  int acknowledged_step;
};

[[noreturn]] void save_for_ever(const fs::path& run_directory, Victim victim, Report& report) {
  const RunDirectory run(run_directory, "victim");
  const auto newest = find_resumable(run_directory).newest;
  uint64_t step = newest ? newest->manifest.step + 1 : 1;
  report.started = true;
  const auto start = std::chrono::steady_clock::now();
  victim(run, step, report.acknowledged_step);
  const auto elapsed = std::chrono::steady_clock::now() - start;
  report.first_save_microseconds = 1 + std::chrono::duration_cast<std::chrono::microseconds>(elapsed).count();
  for (;;) victim(run, ++step, report.acknowledged_step);
}

// Ten seconds at the most: a victim that does not get so far is found out by what it reports.
void wait_until(const std::function<bool()>& done) {
  for (int wait = 0; !done() && wait < 100'000; ++wait) std::this_thread::sleep_for(100us);
}

// Starts the victim and returns when it begins to save.
pid_t start(const fs::path& run_directory, Victim victim, Report& report) {
  report.started = false;
  const pid_t child = ::fork();
  if (child == 0) save_for_ever(run_directory, victim, report);
  wait_until([&] { return report.started.load(); });
  return child;
}

void kill_now(pid_t child) {
  ::kill(child, SIGKILL);
  EXPECT_TRUE(WIFSIGNALED(wait_for(child))) << "the writer ended by itself";
}

std::string check_after_kill(const fs::path& run_directory, int acknowledged_step) {
  const ResumeSearch search = find_resumable(run_directory);
  if (!search.damaged.empty()) return search.damaged.front().reason;
  const uint64_t newest_step = search.newest ? search.newest->manifest.step : 0;
  if (newest_step < static_cast<uint64_t>(acknowledged_step)) return fmt::format("step {} is lost", acknowledged_step);
  return !search.newest || is_of_one_step(*search.newest) ? "" : fmt::format("step {} is mixed", newest_step);
}

// Until the first save of a victim that is left in peace: the pages that a fork shares make it some times as slow as
// later ones, most of all under a sanitizer. The median of three: others may use the machine.
int64_t microseconds_of_a_first_save(Victim victim) {
  std::array<int64_t, 3> times{};
  for (int64_t& time : times) {
    const ScratchDirectory scratch;
    const Shared<Report> report;
    const pid_t child = start(scratch / "run", victim, *report);
    wait_until([&] { return report->first_save_microseconds > 0; });
    kill_now(child);
    time = report->first_save_microseconds;
  }
  std::ranges::sort(times);
  return times[1];
}

// Each victim goes on where the last one was killed, some saves later.
Outcome kill_at_random_times(Victim victim, int num_kills) {
  const unsigned seed = std::random_device{}();
  std::printf("seed %u\n", seed);
  std::mt19937 generator(seed);
  std::uniform_int_distribution<int64_t> microseconds(0, 4 * microseconds_of_a_first_save(victim));
  const ScratchDirectory scratch;
  const Shared<Report> report;
  Outcome outcome;
  for (int k = 1; k <= num_kills; ++k) {
    const pid_t child = start(scratch / "run", victim, *report);
    std::this_thread::sleep_for(std::chrono::microseconds(microseconds(generator)));
    kill_now(child);
    outcome.add(k, check_after_kill(scratch / "run", report->acknowledged_step));
  }
  EXPECT_GT(report->acknowledged_step, 0) << "the kills came too early to show anything";
  return outcome;
}

TEST(Crash, TwoHundredKillsAtRandomTimesLoseNothing) {
  const Outcome outcome = kill_at_random_times(good_step, 200);
  EXPECT_EQ(outcome.num_violations, 0) << outcome.first_violation;
}

TEST(Crash, KillsOfAWriterThatDeletesFirstAreCaught) {
  EXPECT_GT(kill_at_random_times(deletes_first, 60).num_violations, 0);
}

}  // namespace
}  // namespace rankwise::testing
