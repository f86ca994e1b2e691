// One thread a device, introduced to each other over the threads' communicator, so that no launcher is needed.
#include <ATen/ATen.h>
#include <fmt/format.h>

#include <thread>

#include "base/error.h"
#include "comms/cuda.h"
#include "tests/contract/communicator_contract.h"
#include "tests/support/expect_error.h"
#include "tests/support/gpu_test.h"
#include "tests/support/thread_comm.h"

namespace rankwise::testing {
namespace {

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

// Rank 1 never starts the operation: rank 0 must get away with an error, and both devices must be usable afterwards.
TEST(NcclCommunicator, APeerThatDoesNotComeCostsTheTimeoutAndNoMore) {
  if (const auto reason = missing_devices(2); !reason.empty()) GTEST_SKIP() << reason;
  run_ranks(2, [](Communicator& control) {
    const auto start = std::chrono::steady_clock::now();
    const auto nccl = make_nccl_communicator(
        control, {.local_rank = control.rank(), .local_size = 2, .timeout = std::chrono::seconds(3)});
    at::Tensor tensor = at::ones({1 << 20}).to(c10::Device(c10::kCUDA, static_cast<c10::DeviceIndex>(control.rank())));
    nccl->all_reduce(tensor, Reduce::kSum).wait();
    if (control.rank() == 0) {
      nccl->all_reduce(tensor, Reduce::kSum);
      const auto poll = [&] {
        while (std::chrono::steady_clock::now() - start < std::chrono::seconds(60)) {
          nccl->check();
          std::this_thread::sleep_for(std::chrono::milliseconds(50));
        }
      };
      EXPECT_ERROR(poll(), CommError, "rank 0 of 2", "all_reduce", "did not finish within 3 s");
    }
    control.split(0, 0);  // rank 1 stays until rank 0 has given up
    nccl->abort();
    EXPECT_ERROR(nccl->check(), CommError, "aborted");
    EXPECT_EQ(at::ones({4}, tensor.options()).sum().item<float>(), 4.0f) << "the device is free again";
  });
}

}  // namespace
}  // namespace rankwise::testing
