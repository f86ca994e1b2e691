#include "trainer/checkpoint/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "disk_faults.h"
#include "small_checkpoint.h"

namespace rankwise::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class SaveCheckpoint : public ::testing::Test {
 protected:
  ScratchDirectory scratch_;
  RunDirectory run_{scratch_ / "run", "run-7"};
};

TEST_F(SaveCheckpoint, LeavesOneWholeDirectoryAndNothingElse) {
  const CheckpointInfo saved = save_small(run_, 40);
  EXPECT_EQ(saved.directory, run_.path() / "checkpoint-40");
  EXPECT_THAT(names_in(run_.path()), ElementsAre("LOCK", "checkpoint-40"));
  EXPECT_THAT(names_in(saved.directory),
              ElementsAre("MANIFEST.json", "adapter_config.json", "adapter_model.safetensors", "trainer_state"));
  EXPECT_TRUE(is_of_one_step(saved));
}

TEST_F(SaveCheckpoint, ReturnsTheManifestThatIsReadBack) {
  const CheckpointInfo saved = save_small(run_, 40);
  const Manifest read = verify_checkpoint(saved.directory).manifest;
  EXPECT_EQ(read, saved.manifest);
  EXPECT_EQ(read.run_id, "run-7");
  EXPECT_EQ(read.step, 40u);
  EXPECT_EQ(read.fingerprint, small_fingerprint());
  std::vector<std::string> paths;
  for (const ManifestFile& file : read.files) paths.push_back(file.path);
  EXPECT_EQ(paths, small_files());
}

TEST_F(SaveCheckpoint, RemovesTheAttemptOfAWriterThatThrows) {
  save_small(run_, 1);
  const auto fails = [](const fs::path& directory) {
    write_carelessly(directory / "half", "of it");
    throw std::runtime_error("out of patience");
  };
  EXPECT_THROW(save_checkpoint(run_, 2, small_fingerprint(), fails), std::runtime_error);
  EXPECT_THAT(names_in(run_.path()), ElementsAre("LOCK", "checkpoint-1"));
}

TEST_F(SaveCheckpoint, RefusesWhatIsNoFile) {
  const auto links = [](const fs::path& directory) { fs::create_symlink("/etc/hostname", directory / "link"); };
  EXPECT_THAT(error_of([&] { save_checkpoint(run_, 1, {}, links); }).message,
              HasSubstr("link: neither a file nor a directory"));
  EXPECT_THAT(names_in(run_.path()), ElementsAre("LOCK"));
}

TEST_F(SaveCheckpoint, RefusesANameThatTheManifestCannotHold) {
  const auto odd = [](const fs::path& directory) { write_carelessly(directory / "a b", "text"); };
  EXPECT_THAT(error_of([&] { save_checkpoint(run_, 1, {}, odd); }).message, HasSubstr("\"a b\" cannot be named"));
}

TEST_F(SaveCheckpoint, LeavesAWholeOneOfTheSameStepAsItIs) {
  const CheckpointInfo first = save_small(run_, 5);
  const auto must_not_run = [](const fs::path&) { FAIL() << "the checkpoint was written again"; };
  EXPECT_EQ(save_checkpoint(run_, 5, small_fingerprint(), must_not_run).manifest, first.manifest);
}

// Its writer may have died between the rename and the fsync of the run directory.
TEST_F(SaveCheckpoint, SyncsTheNameOfAWholeOneBeforeItIsAcknowledged) {
  save_small(run_, 5);
  const Shared<Journal> journal;
  {
    const WatchedDisk disk(run_.path(), {}, *journal);
    save_small(run_, 5);
  }
  const auto synced_here = [&](const DiskEvent& event) {
    return event.call == DiskCall::kSync && event.path.data() == run_.path().string();
  };
  EXPECT_EQ(std::ranges::count_if(journal->events, synced_here), 1);
}

TEST_F(SaveCheckpoint, RefusesToReplaceOneOfAnotherRun) {
  save_small(run_, 5);
  Fingerprint other = small_fingerprint();
  other[0].value = "ffff";
  const Thrown thrown = error_of([&] { save_checkpoint(run_, 5, other, [](const fs::path&) {}); });
  EXPECT_EQ(thrown.code, 65);
  EXPECT_THAT(thrown.message, HasSubstr("base: the checkpoint has \"a1b2\", this run has \"ffff\""));
}

TEST_F(SaveCheckpoint, SetsADamagedOneOfTheSameStepAside) {
  for (int round = 0; round < 2; ++round) {
    fs::remove(save_small(run_, 5).directory / "adapter_model.safetensors");
  }
  EXPECT_TRUE(is_of_one_step(save_small(run_, 5)));
  EXPECT_THAT(names_in(run_.path()),
              ElementsAre("LOCK", "checkpoint-5", "checkpoint-5.damaged", "checkpoint-5.damaged.2"));
}

TEST_F(SaveCheckpoint, IgnoresFilesThatOthersAddLater) {
  const CheckpointInfo saved = save_small(run_, 5);
  write_carelessly(saved.directory / "notes.txt", "a good one");
  EXPECT_EQ(verify_checkpoint(saved.directory).manifest, saved.manifest);
}

TEST(VerifyCheckpoint, OfNothingIsNoInput) {
  EXPECT_EQ(error_of([] { verify_checkpoint("/nowhere/checkpoint-1"); }).code, 66);
}

}  // namespace
}  // namespace rankwise::testing
