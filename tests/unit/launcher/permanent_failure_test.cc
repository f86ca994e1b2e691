#include "launcher/permanent_failure.h"

#include <gtest/gtest.h>

#include "base/file.h"
#include "tests/support/scratch_directory.h"

namespace rankwise {
namespace {

TEST(PermanentFailure, IsFoundByTheSameRunAlone) {
  const testing::ScratchDirectory scratch;
  EXPECT_FALSE(find_permanent_failure(scratch.path(), "a"));
  mark_permanent_failure(scratch.path(), {65, "data/x.jsonl:3: not JSON \xff", "a"});
  const auto found = find_permanent_failure(scratch.path(), "a");
  ASSERT_TRUE(found);
  EXPECT_EQ(found->code, 65);
  EXPECT_EQ(found->error, "data/x.jsonl:3: not JSON \xef\xbf\xbd");
  EXPECT_FALSE(find_permanent_failure(scratch.path(), "b"));
  EXPECT_FALSE(std::filesystem::exists(permanent_failure_path(scratch.path()))) << "another run has begun";
}

TEST(PermanentFailure, WhatIsNoMarkerIsRemoved) {
  const testing::ScratchDirectory scratch;
  for (const char* text : {"", "{}", "[1]", R"({"exit_code": 0, "error": "", "fingerprint": "a"})",
                           R"({"exit_code": "65", "error": "", "fingerprint": "a"})"}) {
    replace_file(permanent_failure_path(scratch.path()), text);
    EXPECT_FALSE(find_permanent_failure(scratch.path(), "a")) << text;
    EXPECT_FALSE(std::filesystem::exists(permanent_failure_path(scratch.path()))) << text;
  }
}

TEST(PermanentFailure, OnlyWhatTheInputDecides) {
  for (const int code : {64, 65, 66, 77, 78}) EXPECT_TRUE(is_permanent(code)) << code;
  for (const int code : {0, 1, 69, 70, 71, 73, 74, 75, 137}) EXPECT_FALSE(is_permanent(code)) << code;
}

}  // namespace
}  // namespace rankwise
