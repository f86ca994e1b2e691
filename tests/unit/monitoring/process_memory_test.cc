#include "monitoring/process_memory.h"

#include <gtest/gtest.h>

#include <vector>

namespace rankwise {
namespace {

TEST(ProcessMemory, FollowsWhatIsAllocatedAndTouched) {
  constexpr int64_t kBytes = 64 << 20;
  const ProcessMemory before = process_memory();
  {
    const std::vector<char> block(kBytes, 1);
    const ProcessMemory during = process_memory();
    EXPECT_GE(during.resident_bytes, before.resident_bytes + kBytes * 9 / 10);
    EXPECT_EQ(block.back(), 1);
  }
  const ProcessMemory after = process_memory();
  EXPECT_GE(after.peak_resident_bytes, before.resident_bytes + kBytes * 9 / 10);
  EXPECT_LE(after.resident_bytes, after.peak_resident_bytes);
}

}  // namespace
}  // namespace rankwise
