#include "trainer/checkpoint/resume.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "small_checkpoint.h"

namespace rankwise::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

class Resume : public ::testing::Test {
 protected:
  void damage(uint64_t step) { fs::remove(checkpoint_path(run_.path(), step) / "adapter_model.safetensors"); }
  uint64_t chosen_step(const std::string& policy) {
    const auto chosen = choose_checkpoint(run_.path(), parse_resume_policy(policy));
    return chosen ? chosen->manifest.step : 0;
  }
  Thrown refusal(const std::string& policy) {
    return error_of([&] { chosen_step(policy); });
  }

  ScratchDirectory scratch_;
  RunDirectory run_{scratch_ / "run", "resume"};
};

TEST_F(Resume, TakesTheNewestByNumberNotByName) {
  for (const uint64_t step : {2, 10, 9}) save_small(run_, step);
  EXPECT_EQ(chosen_step("auto"), 10u);
  EXPECT_EQ(chosen_step("required"), 10u);
}

TEST_F(Resume, StepsOverDamagedOnesAndReportsThem) {
  for (const uint64_t step : {1, 2, 3}) save_small(run_, step);
  damage(3);
  damage(2);
  const ResumeSearch search = find_resumable(run_.path());
  EXPECT_EQ(search.newest->manifest.step, 1u);
  ASSERT_EQ(search.damaged.size(), 2u);
  EXPECT_THAT(search.damaged[0].reason, HasSubstr("checkpoint-3/adapter_model.safetensors: missing"));
  EXPECT_THAT(search.damaged[1].reason, HasSubstr("checkpoint-2/adapter_model.safetensors: missing"));
  EXPECT_EQ(chosen_step("auto"), 1u);
}

TEST_F(Resume, AutoStartsAnewWhereNothingIsWhole) {
  EXPECT_EQ(chosen_step("auto"), 0u);
  save_small(run_, 1);
  damage(1);
  EXPECT_EQ(chosen_step("auto"), 0u);
  EXPECT_FALSE(choose_checkpoint(scratch_ / "nowhere", {}).has_value());
}

TEST_F(Resume, RequiredRefusesAnEmptyDirectory) {
  EXPECT_EQ(refusal("required").code, 65);
  EXPECT_THAT(refusal("required").message, HasSubstr("no checkpoint-<step> directory"));
}

TEST_F(Resume, RequiredRefusesWhereOnlyAnAttemptIs) {
  fs::create_directory(run_.path() / "tmp.5.77");
  EXPECT_EQ(refusal("required").code, 65);
}

TEST_F(Resume, RequiredRefusesWhereAllAreDamagedAndSaysHow) {
  save_small(run_, 1);
  save_small(run_, 2);
  damage(1);
  damage(2);
  EXPECT_EQ(refusal("required").code, 65);
  EXPECT_THAT(refusal("required").message, AllOf(HasSubstr("checkpoint-2/adapter_model.safetensors: missing"),
                                                 HasSubstr("checkpoint-1/adapter_model.safetensors: missing")));
}

TEST_F(Resume, NeverRefusesADirectoryWithCheckpoints) {
  EXPECT_EQ(chosen_step("never"), 0u);
  save_small(run_, 7);
  EXPECT_EQ(refusal("never").code, 65);
  EXPECT_THAT(refusal("never").message, HasSubstr("checkpoints up to step 7"));
}

TEST_F(Resume, ANamedCheckpointOfAnotherDirectoryIsTaken) {
  const RunDirectory other(scratch_ / "other", "other");
  const fs::path named = save_small(other, 4).directory;
  EXPECT_EQ(chosen_step(named.string()), 4u);
  fs::rename(named, scratch_ / "renamed");
  EXPECT_EQ(chosen_step((scratch_ / "renamed").string()), 4u);
}

TEST_F(Resume, ANamedCheckpointThatIsDamagedOrAbsentIsAnError) {
  const fs::path named = save_small(run_, 4).directory;
  damage(4);
  EXPECT_EQ(refusal(named.string()).code, 65);
  EXPECT_EQ(refusal("/nowhere/checkpoint-4").code, 66);
}

TEST_F(Resume, ANamedCheckpointOlderThanTheDirectorysOwnIsRefused) {
  const fs::path named = save_small(run_, 4).directory;
  save_small(run_, 9);
  EXPECT_EQ(refusal(named.string()).code, 65);
  EXPECT_THAT(refusal(named.string()).message, HasSubstr("is of step 4"));
  EXPECT_THAT(refusal(named.string()).message, HasSubstr("holds step 9"));
}

TEST(MeansDamage, IsNotSaidOfWhatMayNotBeRead) {
  EXPECT_TRUE(means_damage(DataError("cut")));
  EXPECT_TRUE(means_damage(NoInputError("gone")));
  EXPECT_TRUE(means_damage(IoError("bad sector")));
  EXPECT_FALSE(means_damage(Error(ExitCode::kNoPermission, "not yours")));
}

TEST(ResumePolicy, IsOneOfThreeWordsOrAPath) {
  EXPECT_EQ(parse_resume_policy("auto").mode, ResumeMode::kAuto);
  EXPECT_EQ(parse_resume_policy("required").mode, ResumeMode::kRequired);
  EXPECT_EQ(parse_resume_policy("never").mode, ResumeMode::kNever);
  EXPECT_EQ(parse_resume_policy("runs/a/checkpoint-3").mode, ResumeMode::kDirectory);
  EXPECT_EQ(parse_resume_policy("runs/a/checkpoint-3").directory, "runs/a/checkpoint-3");
  EXPECT_EQ(error_of([] { parse_resume_policy(""); }).code, 78);
}

}  // namespace
}  // namespace rankwise::testing
