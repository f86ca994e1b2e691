#include "base/nearest.h"

#include <gtest/gtest.h>

#include <vector>

namespace rankwise {
namespace {

TEST(NearestName, TakesTheFewestEdits) {
  const std::vector<std::string> names = {"k_proj", "q_proj", "o_proj", "up_proj"};
  EXPECT_EQ(nearest_name("q_porj", names), "q_proj");
  EXPECT_EQ(nearest_name("upproj", names), "up_proj");
  EXPECT_EQ(nearest_name("k_proj", names), "k_proj");
}

TEST(NearestName, TakesTheFirstOfSeveral) { EXPECT_EQ(nearest_name("x", std::vector<std::string>{"a", "b"}), "a"); }

TEST(NearestName, IsEmptyWithoutCandidates) { EXPECT_EQ(nearest_name("a", {}), ""); }

}  // namespace
}  // namespace rankwise
