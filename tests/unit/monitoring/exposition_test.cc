#include "monitoring/exposition.h"

#include <gtest/gtest.h>

namespace rankwise {
namespace {

constexpr const char* kFirst =
    "# HELP a_bytes Bytes\n# TYPE a_bytes gauge\na_bytes{rank=\"0\"} 1\n"
    "# HELP c_total Of rank 0 alone\n# TYPE c_total counter\nc_total 7\n";
constexpr const char* kSecond =
    "# HELP a_bytes Bytes\n# TYPE a_bytes gauge\na_bytes{rank=\"1\"} 2\n"
    "# HELP b_seconds A histogram\n# TYPE b_seconds histogram\nb_seconds_count{rank=\"1\"} 3\n"
    "b_seconds_sum{rank=\"1\"} 4\n";

TEST(MergePages, EachFamilyStandsOnceWithTheSeriesOfAll) {
  EXPECT_EQ(merge_pages({kFirst, kSecond}),
            "# HELP a_bytes Bytes\n# TYPE a_bytes gauge\na_bytes{rank=\"0\"} 1\na_bytes{rank=\"1\"} 2\n"
            "# HELP b_seconds A histogram\n# TYPE b_seconds histogram\nb_seconds_count{rank=\"1\"} 3\n"
            "b_seconds_sum{rank=\"1\"} 4\n"
            "# HELP c_total Of rank 0 alone\n# TYPE c_total counter\nc_total 7\n");
}

TEST(MergePages, OnePageStaysAsItIs) {
  EXPECT_EQ(merge_pages({kFirst}), kFirst);
  EXPECT_EQ(merge_pages({"", kSecond, ""}), kSecond);
  EXPECT_EQ(merge_pages({}), "");
}

}  // namespace
}  // namespace rankwise
