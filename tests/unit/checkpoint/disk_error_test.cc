// Every operation of a save fails once, or from then on for ever.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <iterator>

#include "base/file.h"
#include "disk_faults.h"
#include "small_checkpoint.h"
#include "trainer/checkpoint/resume.h"

namespace rankwise::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using Fault = DiskPlan::Fault;

int num_open_files() {
  const fs::directory_iterator descriptors("/proc/self/fd");
  return static_cast<int>(std::distance(fs::begin(descriptors), fs::end(descriptors)));
}

struct FailingDisk {
  Fault fault;
  int error;
  int exit_code;
};

class DiskError : public ::testing::TestWithParam<FailingDisk> {
 protected:
  // Step 1 is there; step 2 is saved while operation `at` fails; step 3 follows on a sound disk.
  void fail_operation(int at, DiskCall call) {
    SCOPED_TRACE("operation " + std::to_string(at));
    const ScratchDirectory scratch;
    const RunDirectory run(scratch / "run", "disk error");
    save_small(run, 1);
    const int open_before = num_open_files();
    const Shared<Journal> journal;
    const Thrown thrown = error_of([&] {
      const WatchedDisk disk(scratch.path(), {.fault = GetParam().fault, .at = at, .error = GetParam().error},
                             *journal);
      save_small(run, 2);
    });
    EXPECT_EQ(num_open_files(), open_before);
    const auto newest = find_resumable(run.path()).newest;
    ASSERT_TRUE(newest && is_of_one_step(*newest));
    // Where the name cannot be taken back any more, a failed save may still be seen.
    const bool may_be_seen = GetParam().fault == Fault::kFailForever && newest->manifest.step == 2;
    EXPECT_TRUE(newest->manifest.step == (thrown.code == 0 ? 2u : 1u) || may_be_seen) << thrown.message;
    if (call == DiskCall::kCreate || call == DiskCall::kSync) {
      EXPECT_EQ(thrown.code, GetParam().exit_code) << thrown.message;
    }
    if (thrown.code != 0 && GetParam().fault == Fault::kFailOnce) {
      EXPECT_THAT(names_in(run.path()), ElementsAre("LOCK", "checkpoint-1")) << thrown.message;
    }
    save_small(run, 3);
    EXPECT_FALSE(names_in(run.path()).back().starts_with("tmp."));
    EXPECT_EQ(find_resumable(run.path()).newest->manifest.step, 3u);
  }
};

TEST_P(DiskError, AtAnyOperationIsLoudAndLeavesTheOldCheckpoint) {
  const ScratchDirectory scratch;
  const Shared<Journal> journal;
  {
    const RunDirectory run(scratch / "run", "count");
    save_small(run, 1);
    const WatchedDisk disk(scratch.path(), {}, *journal);
    save_small(run, 2);
  }
  ASSERT_GT(journal->num_events, 30);
  for (int at = 1; at <= journal->num_events; ++at) {
    fail_operation(at, journal->events[static_cast<size_t>(at - 1)].call);
  }
}

INSTANTIATE_TEST_SUITE_P(Of, DiskError,
                         ::testing::Values(FailingDisk{Fault::kFailOnce, ENOSPC, 73},
                                           FailingDisk{Fault::kFailOnce, EIO, 74},
                                           FailingDisk{Fault::kFailForever, ENOSPC, 73},
                                           FailingDisk{Fault::kFailForever, EIO, 74}));

TEST(ShortWrites, AreContinued) {
  const ScratchDirectory scratch;
  const RunDirectory run(scratch / "run", "short writes");
  const Shared<Journal> journal;
  const WatchedDisk disk(scratch.path(), {.fault = Fault::kHalfWrites, .at = 0, .error = 0}, *journal);
  const CheckpointInfo saved = save_checkpoint(run, 1, small_fingerprint(), [](const fs::path& directory) {
    for (const std::string& file : small_files()) write_new_file(directory / file, content_of(file, 1));
  });
  EXPECT_EQ(verify_checkpoint(saved.directory).manifest, saved.manifest);
  EXPECT_TRUE(is_of_one_step(saved));
}

}  // namespace
}  // namespace rankwise::testing
