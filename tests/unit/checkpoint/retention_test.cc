#include "trainer/checkpoint/retention.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "small_checkpoint.h"

namespace rankwise::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

class Retention : public ::testing::Test {
 protected:
  void save(std::initializer_list<uint64_t> steps) {
    for (const uint64_t step : steps) save_small(run_, step);
  }
  void damage(uint64_t step) { fs::remove(checkpoint_path(run_.path(), step) / "adapter_model.safetensors"); }
  std::vector<uint64_t> kept() const { return list_checkpoint_steps(run_.path()); }

  ScratchDirectory scratch_;
  RunDirectory run_{scratch_ / "run", "retention"};
};

TEST_F(Retention, KeepsTheNewestByNumber) {
  save({8, 9, 10, 11});
  EXPECT_THAT(prune_checkpoints(run_, 2, std::nullopt), ElementsAre(9, 8));
  EXPECT_THAT(kept(), ElementsAre(10, 11));
  EXPECT_THAT(names_in(run_.path()), ElementsAre("LOCK", "checkpoint-10", "checkpoint-11"));
}

TEST_F(Retention, DoesNothingBelowTheLimit) {
  save({1, 2});
  EXPECT_THAT(prune_checkpoints(run_, 2, std::nullopt), IsEmpty());
  EXPECT_THAT(kept(), ElementsAre(1, 2));
}

TEST_F(Retention, KeepsTheBestBesides) {
  save({1, 2, 3, 4});
  EXPECT_THAT(prune_checkpoints(run_, 1, 2), ElementsAre(3, 1));
  EXPECT_THAT(kept(), ElementsAre(2, 4));
}

TEST_F(Retention, NeverDeletesTheLastWholeOne) {
  save({1, 2, 3, 4, 5});
  damage(3);
  damage(4);
  damage(5);
  EXPECT_THAT(prune_checkpoints(run_, 2, std::nullopt), ElementsAre(3, 1));
  EXPECT_THAT(kept(), ElementsAre(2, 4, 5));
}

TEST_F(Retention, DeletesNothingWhereNothingIsWhole) {
  save({1, 2});
  damage(1);
  damage(2);
  EXPECT_THAT(prune_checkpoints(run_, 1, std::nullopt), ElementsAre(1));
  EXPECT_THAT(kept(), ElementsAre(2));
}

TEST_F(Retention, LeavesWhatIsNoCheckpointAlone) {
  save({1, 2});
  for (const std::string name : {"final", "checkpoint-1.damaged", "checkpoint-007", "checkpoint-", "my-checkpoint-1"}) {
    fs::create_directory(run_.path() / name);
  }
  prune_checkpoints(run_, 1, std::nullopt);
  EXPECT_THAT(names_in(run_.path()), ElementsAre("LOCK", "checkpoint-", "checkpoint-007", "checkpoint-1.damaged",
                                                 "checkpoint-2", "final", "my-checkpoint-1"));
}

TEST_F(Retention, OfNoneIsAMistake) {
  EXPECT_EQ(error_of([&] { prune_checkpoints(run_, 0, 1); }).code, 70);
}

}  // namespace
}  // namespace rankwise::testing
