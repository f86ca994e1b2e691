#include "trainer/checkpoint/fingerprint.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "small_checkpoint.h"

namespace rankwise::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

const Fingerprint kSaved = {{"base", "a1b2", FieldRule::kMustMatch},
                            {"lora.r", "16", FieldRule::kMustMatch},
                            {"data", "c3d4", FieldRule::kMayChange},
                            {"world_size", "2", FieldRule::kInformative}};

Fingerprint with(const std::string& name, const std::string& value, Fingerprint changed = kSaved) {
  for (FingerprintField& field : changed) {
    if (field.name == name) field.value = value;
  }
  return changed;
}

Thrown compare(const Fingerprint& current, const std::set<std::string>& allowed = {}) {
  return error_of([&] { compare_fingerprints(kSaved, current, allowed, "runs/x/checkpoint-9"); });
}

TEST(Fingerprint, EqualOnesPass) { EXPECT_TRUE(compare_fingerprints(kSaved, kSaved, {}, "x").empty()); }

TEST(Fingerprint, EachFieldThatMustMatchIsNamedWithBothValues) {
  for (const std::string name : {"base", "lora.r"}) {
    const Thrown thrown = compare(with(name, "new"));
    EXPECT_EQ(thrown.code, 65);
    EXPECT_THAT(thrown.message, HasSubstr("runs/x/checkpoint-9"));
    EXPECT_THAT(thrown.message, HasSubstr(fmt::format("{}: the checkpoint has \"", name)));
    EXPECT_THAT(thrown.message, HasSubstr("this run has \"new\""));
  }
}

TEST(Fingerprint, AllRefusedFieldsAreInOneMessage) {
  const std::string message = compare(with("lora.r", "8", with("base", "ffff"))).message;
  EXPECT_THAT(message, HasSubstr("base: the checkpoint has \"a1b2\", this run has \"ffff\""));
  EXPECT_THAT(message, HasSubstr("lora.r: the checkpoint has \"16\", this run has \"8\""));
}

TEST(Fingerprint, AllowingAFieldThatMustMatchDoesNotHelp) {
  EXPECT_EQ(compare(with("base", "ffff"), {"base"}).code, 65);
}

TEST(Fingerprint, AFieldThatMayChangeNeedsToBeAllowed) {
  const Fingerprint current = with("data", "e5f6");
  EXPECT_THAT(compare(current).message,
              HasSubstr("data: the checkpoint has \"c3d4\", this run has \"e5f6\" (can be allowed"));
  const auto passed = compare_fingerprints(kSaved, current, {"data"}, "x");
  ASSERT_EQ(passed.size(), 1u);
  EXPECT_EQ(describe(passed[0]), "data: the checkpoint has \"c3d4\", this run has \"e5f6\"");
}

TEST(Fingerprint, AnInformativeFieldIsOnlyReported) {
  const auto passed = compare_fingerprints(kSaved, with("world_size", "4"), {}, "x");
  ASSERT_EQ(passed.size(), 1u);
  EXPECT_EQ(passed[0].name, "world_size");
}

TEST(Fingerprint, AFieldThatOnlyOneSideHasIsADifference) {
  Fingerprint fewer = kSaved;
  fewer.erase(fewer.begin());
  EXPECT_THAT(compare(fewer).message, HasSubstr("base: the checkpoint has \"a1b2\", this run has nothing"));
  Fingerprint more = kSaved;
  more.push_back({"tokenizer", "77", FieldRule::kMustMatch});
  EXPECT_THAT(compare(more).message, HasSubstr("tokenizer: the checkpoint has nothing, this run has \"77\""));
  EXPECT_THAT(compare(more).message, Not(HasSubstr("base:")));
}

TEST(Fingerprint, ThisProgramsRuleCountsNotTheSavedOne) {
  Fingerprint current = with("lora.r", "8");
  current[1].rule = FieldRule::kInformative;
  EXPECT_EQ(compare(current).code, 0);
}

}  // namespace
}  // namespace rankwise::testing
