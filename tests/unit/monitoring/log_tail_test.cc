#include "monitoring/log_tail.h"

#include <gtest/gtest.h>

namespace rankwise {
namespace {

TEST(LogTail, MakesLinesOfATextOfSeveral) {
  LogTail tail;
  tail.add("one\ntwo\n");
  ASSERT_EQ(tail.lines().size(), 2);
  EXPECT_EQ(tail.lines()[1].text, "two");
  EXPECT_NEAR(tail.lines()[1].time, unix_time(), 60);
}

TEST(LogTail, KeepsTheLast) {
  LogTail tail;
  for (int i = 0; i < 250; ++i) tail.add(std::to_string(i));
  ASSERT_EQ(tail.lines().size(), LogTail::kMaxLines);
  EXPECT_EQ(tail.lines().front().text, "150");
  EXPECT_EQ(tail.lines().back().text, "249");
}

TEST(LogTail, CutsALongLine) {
  LogTail tail;
  tail.add(std::string(100'000, 'x'));
  EXPECT_EQ(tail.lines()[0].text, std::string(LogTail::kMaxLineBytes, 'x') + " ...");
}

}  // namespace
}  // namespace rankwise
