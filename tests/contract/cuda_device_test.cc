// What a device says of itself, beside what the driver's own program says of it.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "comms/cuda.h"
#include "tests/support/gpu_test.h"
#include "tests/support/run_program.h"

namespace rankwise::testing {
namespace {

TEST(CudaDevice, ItsCapabilityIsTheDrivers) {
  if (const auto reason = missing_devices(1); !reason.empty()) GTEST_SKIP() << reason;
  const auto asked =
      run_program(fmt::format("nvidia-smi --query-gpu=compute_cap --format=csv,noheader --id={}", device_uuid()));
  ASSERT_EQ(asked.exit_code, 0) << asked.output;
  const ComputeCapability capability = compute_capability();
  EXPECT_EQ(fmt::format("{}.{}\n", capability.major, capability.minor), asked.output);
}

}  // namespace
}  // namespace rankwise::testing
