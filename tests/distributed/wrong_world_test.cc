// A binary that is started by another MPI than its own must not train N times over.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include "tests/support/run_program.h"

namespace rankwise::testing {
namespace {

using ::testing::HasSubstr;

TEST(WrongWorld, ALauncherThatPromisesMoreRanksThanMpiSeesIsAnError) {
  const auto end = run_program(fmt::format("OMPI_COMM_WORLD_SIZE=2 {} size", WORLD_PROBE));
  EXPECT_EQ(end.exit_code, 71) << end.output;
  EXPECT_THAT(end.output, HasSubstr("the launcher started 2 ranks but MPI sees 1"));
}

TEST(WrongWorld, WithoutALauncherTheWorldIsOneProcess) {
  const auto end = run_program(fmt::format("{} size", WORLD_PROBE));
  EXPECT_EQ(end.exit_code, 0) << end.output;
  EXPECT_EQ(end.output, "1\n");
}

}  // namespace
}  // namespace rankwise::testing
