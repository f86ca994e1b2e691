// One thread a device, introduced to each other over the threads' communicator, so that no launcher is needed.
#include <fmt/format.h>

#include "base/error.h"
#include "comms/cuda.h"
#include "tests/contract/communicator_contract.h"
#include "tests/support/expect_error.h"
#include "tests/support/thread_comm.h"

namespace rankwise::testing {
namespace {

std::string missing_devices(int needed) {
  const int here = num_cuda_devices();
  return here >= needed ? "" : fmt::format("{} CUDA device(s) needed, {} here", needed, here);
}

void run_on_devices(int size, const std::function<void(Communicator&)>& body) {
  run_ranks(size, [&](Communicator& control) {
    const auto communicator = make_nccl_communicator(
        control, {.local_rank = control.rank(), .local_size = size, .timeout = std::chrono::seconds(60)});
    body(*communicator);
    communicator->finalize();
  });
}

Transport nccl(int size) {
  return {"nccl", size, [size](const auto& body) { run_on_devices(size, body); },
          [size] { return missing_devices(size); }, true};
}

INSTANTIATE_TEST_SUITE_P(Nccl, CommunicatorContract, ::testing::Values(nccl(1), nccl(2), nccl(4)), transport_test_name);

TEST(NcclCommunicator, FewerDevicesThanRanksIsAnErrorThatSaysSo) {
  const int ranks = num_cuda_devices() + 1;
  EXPECT_ERROR(run_on_devices(ranks, [](Communicator&) { FAIL() << "not reached"; }), UnavailableError,
               fmt::format("{} rank(s) on this host but {} CUDA device(s)", ranks, ranks - 1), "CUDA_VISIBLE_DEVICES");
}

}  // namespace
}  // namespace rankwise::testing
