#include <gtest/gtest.h>

#include "tests/contract/communicator_contract.h"
#include "tests/support/expect_error.h"
#include "tests/support/thread_comm.h"

namespace rankwise::testing {
namespace {

Transport local() {
  return {"local", 1, [](const auto& body) { body(*make_local_communicator()); }};
}

Transport threads(int size) {
  return {"threads", size, [size](const auto& body) { run_ranks(size, body); }};
}

INSTANTIATE_TEST_SUITE_P(Here, CommunicatorContract,
                         ::testing::Values(local(), threads(1), threads(2), threads(3), threads(4)),
                         transport_test_name);

// The tests' own transport must not hide what goes wrong.
TEST(ThreadCommunicator, AFailingRankEndsTheOthers) {
  EXPECT_ERROR(run_ranks(3,
                         [](Communicator& c) {
                           if (c.rank() == 1) throw DataError("rank 1 gives up");
                           c.finalize();
                         }),
               DataError, "rank 1 gives up");
}

TEST(ThreadCommunicator, RanksOutOfStepAreAnError) {
  EXPECT_ERROR(run_ranks(2, [](Communicator& c) { c.rank() == 0 ? c.finalize() : void(c.split(0, 0)); }), CommError,
               "out of step", "finalize", "split");
}

}  // namespace
}  // namespace rankwise::testing
