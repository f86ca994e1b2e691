// One process a device, as in a run: what threads of one process cannot show is that ranks read each other's memory.
#include <ATen/ATen.h>

#include "comms/cuda.h"
#include "tests/contract/communicator_contract.h"
#include "tests/support/gpu_test.h"
#include "tests/support/mpi_main.h"

namespace rankwise::testing {
namespace {

std::unique_ptr<Communicator> on_devices(bool peer_copies) {
  const auto introduction = world().make_communicator(nullptr);
  return make_nccl_communicator(*introduction, {.local_rank = world().local_rank(),
                                                .local_size = world().local_size(),
                                                .timeout = std::chrono::seconds(60),
                                                .peer_copies = peer_copies});
}

Transport nccl(bool peer_copies) {
  return {"nccl", world().size(),
          [=](const auto& body) {
            const auto communicator = on_devices(peer_copies);
            body(*communicator);
            communicator->finalize();
          },
          [] { return missing_devices(world().local_size()); }, true};
}

INSTANTIATE_TEST_SUITE_P(ReadingPeers, CommunicatorContract, ::testing::Values(nccl(true)), transport_test_name);
INSTANTIATE_TEST_SUITE_P(OverNccl, CommunicatorContract, ::testing::Values(nccl(false)), transport_test_name);

TEST(PeerParts, AreReadFromTheOtherProcessesUnlessThatIsSwitchedOff) {
  if (const auto reason = missing_devices(world().local_size()); !reason.empty()) GTEST_SKIP() << reason;
  if (world().size() == 1) GTEST_SKIP() << "one rank has no peers";
  for (const bool peer_copies : {true, false}) {
    const auto communicator = on_devices(peer_copies);
    const at::Tensor part =
        at::ones({8}, at::TensorOptions().device(c10::kCUDA, static_cast<c10::DeviceIndex>(world().local_rank())));
    EXPECT_EQ(communicator->share({part})->transport(), peer_copies ? "peer" : "nccl");
    communicator->finalize();
  }
}

// As the units of a base that stay are beside those that are gathered again.
TEST(PeerParts, MayLieInTheirPlaceInTheWhole) {
  if (const auto reason = missing_devices(world().local_size()); !reason.empty()) GTEST_SKIP() << reason;
  if (world().size() == 1) GTEST_SKIP() << "one rank has no peers";
  constexpr int64_t kCount = 70'001;
  const auto communicator = on_devices(/*peer_copies=*/true);
  const auto options =
      at::TensorOptions().device(c10::kCUDA, static_cast<c10::DeviceIndex>(world().local_rank())).dtype(at::kInt);
  at::Tensor whole = at::zeros({world().size(), kCount}, options), gathered = at::zeros_like(whole);
  at::Tensor expected = at::zeros_like(whole);
  for (int r = 0; r < world().size(); ++r) expected.select(0, r).copy_(at::arange(kCount, options).add_(r * 7));
  whole.select(0, world().rank()).copy_(expected.select(0, world().rank()));
  const at::Tensor apart = expected.select(0, world().rank()).neg();
  const auto shared = communicator->share({whole.select(0, world().rank()), apart});
  EXPECT_EQ(shared->transport(), "peer");
  shared->gather(0, whole).wait();
  shared->gather(1, gathered).wait();
  EXPECT_TRUE(whole.equal(expected));
  EXPECT_TRUE(gathered.equal(expected.neg()));
  communicator->finalize();
}

}  // namespace
}  // namespace rankwise::testing
