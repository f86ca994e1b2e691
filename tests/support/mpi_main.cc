#include "tests/support/mpi_main.h"

#include <gtest/gtest.h>

#include <cstdio>

namespace rankwise::testing {

World& world() {
  static World world;
  return world;
}

namespace {

// Rank 0 prints the usual report, the others only what went wrong.
class FailurePrinter final : public ::testing::EmptyTestEventListener {
  void OnTestPartResult(const ::testing::TestPartResult& result) override {
    if (!result.failed()) return;
    std::fprintf(stderr, "rank %d: %s:%d: %s\n", world().rank(), result.file_name(), result.line_number(),
                 result.message());
  }
};

}  // namespace
}  // namespace rankwise::testing

int main(int argc, char** argv) {
  auto& world = rankwise::testing::world();
  ::testing::InitGoogleTest(&argc, argv);
  GTEST_FLAG_SET(catch_exceptions, false);
  auto& listeners = ::testing::UnitTest::GetInstance()->listeners();
  if (world.rank() != 0) {
    delete listeners.Release(listeners.default_result_printer());
    listeners.Append(new rankwise::testing::FailurePrinter);
  }
  const int result = RUN_ALL_TESTS();
  const auto results = world.gather_strings(result == 0 ? "" : "failed");
  world.finalize();
  for (const auto& text : results) {
    if (!text.empty()) return 1;
  }
  return 0;
}
