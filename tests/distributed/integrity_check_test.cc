// One bit that differs on one rank is seen wherever it lies, and the rank is named where most of the others agree. With
// RANKWISE_TEST_DEVICE=cuda it lies on GPUs, which ranks may share.
#include "trainer/integrity_check.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <iostream>
#include <random>

#include "comms/cuda.h"
#include "tests/support/expect_error.h"
#include "tests/support/mpi_main.h"

namespace rankwise::testing {
namespace {

constexpr int64_t kSizes[] = {1, 2, 3, 2047, 2048, 2049, 10'000, 70'001};

at::Device device() {
  const char* wish = std::getenv("RANKWISE_TEST_DEVICE");
  const int gpus = wish != nullptr && std::string_view(wish) == "cuda" ? num_cuda_devices() : 0;
  return gpus == 0 ? at::kCPU : at::Device(at::kCUDA, static_cast<at::DeviceIndex>(world().local_rank() % gpus));
}

void flip_bit(const at::Tensor& flat, int64_t bit) {
  const at::Tensor here = flat.cpu();
  static_cast<uint8_t*>(here.mutable_data_ptr())[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
  flat.copy_(here);
}

at::Tensor counting(int64_t size) { return at::arange(size, at::TensorOptions().dtype(at::kFloat).device(device())); }

TEST(ReplicaDigest, SeesAnyBit) {
  const uint64_t seed = std::random_device{}();
  std::cout << "seed " << seed << "\n";
  std::mt19937_64 generator(seed);
  for (const auto dtype : {at::kFloat, at::kDouble}) {
    for (const int64_t size : kSizes) {
      const at::Tensor flat = at::randn({size}, at::TensorOptions().dtype(dtype).device(device()));
      const uint64_t digest = replica_digest(flat);
      const auto num_bits = static_cast<int64_t>(8 * flat.nbytes());
      for (int k = 0; k < 100; ++k) {
        const int64_t bit = k == 0   ? 0
                            : k == 1 ? num_bits - 1
                                     : std::uniform_int_distribution<int64_t>(0, num_bits - 1)(generator);
        flip_bit(flat, bit);
        EXPECT_NE(replica_digest(flat), digest) << size << " numbers, bit " << bit;
        flip_bit(flat, bit);
      }
      EXPECT_EQ(replica_digest(flat.clone()), digest);
    }
  }
}

TEST(ReplicaDigest, SeesNumbersThatChangedPlaces) {
  for (const int64_t size : kSizes) {
    if (size < 3) continue;
    const at::Tensor flat = counting(size);
    EXPECT_NE(replica_digest(flat), replica_digest(flat.roll(1))) << size;
  }
}

std::vector<Replica> replicas_of(const at::Tensor& adapter, const at::Tensor& moments) {
  return {{"the adapter", adapter}, {"the moments", moments}};
}

TEST(EqualReplicas, EqualOnesPass) {
  const at::Tensor adapter = counting(5000), moments = adapter + 1;
  require_equal_replicas(world(), 7, replicas_of(adapter, moments));
}

TEST(EqualReplicas, NamesTheRankAndThePart) {
  for (int wrong = 0; wrong < world().size(); ++wrong) {
    const at::Tensor adapter = counting(5000), moments = adapter + 1;
    if (wrong == world().rank()) flip_bit(moments, 32 * 4321 + 5);
    if (world().size() == 1) return require_equal_replicas(world(), 7, replicas_of(adapter, moments));
    const std::string in_pairs =
        "step 7: rank(s) 1 on {0} hold other numbers than rank(s) 0 on {0} in the moments, and";
    const std::string outvoted = "step 7: rank(s) {1} on {0} hold other numbers than the others in the moments: ";
    const std::string named =
        fmt::format(fmt::runtime(world().size() == 2 ? in_pairs : outvoted), world().host(), wrong);
    EXPECT_ERROR(require_equal_replicas(world(), 7, replicas_of(adapter, moments)), AgreedError, named);
  }
}

TEST(EqualReplicas, OfTwoHalvesNoneIsRight) {
  if (world().size() < 4) return;
  const at::Tensor adapter = counting(5000), moments = adapter + 1;
  if (world().rank() % 2 == 1) flip_bit(adapter, 3);
  EXPECT_ERROR(
      require_equal_replicas(world(), 7, replicas_of(adapter, moments)), AgreedError,
      fmt::format("step 7: rank(s) 1 on {0}, 3 on {0} hold other numbers than rank(s) 0 on {0} in the adapter, "
                  "and which are right cannot be told",
                  world().host()));
}

}  // namespace
}  // namespace rankwise::testing
