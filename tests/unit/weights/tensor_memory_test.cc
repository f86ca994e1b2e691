// On a device the kinds of memory are told by scopes, and what one encloses is counted once. Needs a CUDA device.
#include "trainer/weights/tensor_memory.h"

#include <ATen/ATen.h>

#include "tests/support/gpu_test.h"

namespace rankwise {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;

at::Tensor mebibytes(int64_t count) {
  return at::empty({count * kMiB}, at::TensorOptions().dtype(at::kByte).device(at::kCUDA, 0));
}

class TensorMemoryOnGpu : public testing::GpuTest {
 protected:
  void SetUp() override {
    GpuTest::SetUp();
    if (IsSkipped()) return;
    count_device_memory(at::Device(at::kCUDA, 0));
    mebibytes(1);  // the allocator is awake
    before_ = tensor_memory();
  }

  int64_t grown_mib(TensorKind kind) const {
    const auto k = static_cast<size_t>(kind);
    return (tensor_memory().live_bytes[k] - before_.live_bytes[k]) / kMiB;
  }

  TensorMemory before_;
};

TEST_F(TensorMemoryOnGpu, AScopeCountsWhatNoInnerOneDid) {
  at::Tensor gathered, more, shard, passing;
  {
    const TensorScope outer(TensorKind::kGathered);
    gathered = mebibytes(2);
    {
      const TensorScope inner(TensorKind::kBaseShard);
      shard = mebibytes(4);
      const TensorScope innermost(TensorKind::kActivations);
      passing = mebibytes(8);
    }
    more = mebibytes(16);
  }
  EXPECT_EQ(grown_mib(TensorKind::kGathered), 18);
  EXPECT_EQ(grown_mib(TensorKind::kBaseShard), 4);
  EXPECT_EQ(grown_mib(TensorKind::kActivations), 8);
}

TEST_F(TensorMemoryOnGpu, WhatAScopeGaveBackIsNotKept) {
  at::Tensor kept;
  {
    const TensorScope scope(TensorKind::kOptimizer);
    const at::Tensor passing = mebibytes(4);
    kept = mebibytes(2);
  }
  const at::Tensor after = mebibytes(1);
  EXPECT_EQ(grown_mib(TensorKind::kOptimizer), 2);
  EXPECT_EQ(grown_mib(TensorKind::kActivations), 1);
}

}  // namespace
}  // namespace rankwise
