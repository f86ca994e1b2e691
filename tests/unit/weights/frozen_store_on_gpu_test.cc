// What a frozen base takes of a device: as much as was planned, told by kind. Needs a CUDA device.
#include <ATen/ATen.h>

#include <limits>
#include <string>

#include "base/round_up.h"
#include "tests/support/gpu_test.h"
#include "tests/support/random_model.h"
#include "tests/support/scratch_directory.h"
#include "trainer/model/decoder.h"
#include "trainer/weights/base_check.h"
#include "trainer/weights/frozen_store.h"
#include "trainer/weights/tensor_loader.h"
#include "trainer/weights/tensor_memory.h"

namespace rankwise::testing {
namespace {

constexpr int64_t kBlock = 512;  // of the allocator

class FrozenStoreOnGpu : public GpuTest {
 protected:
  void SetUp() override {
    GpuTest::SetUp();
    if (IsSkipped()) return;
    count_device_memory(kDevice);
    at::zeros({1}, kDevice);  // the allocator is awake
    reset_tensor_memory_peaks();
    before_ = tensor_memory();
  }

  int64_t grown(TensorKind kind) const {
    const auto k = static_cast<size_t>(kind);
    return tensor_memory().live_bytes[k] - before_.live_bytes[k];
  }

  static int64_t bytes_of(const UnitSpec& unit, BaseFormat format) {
    int64_t rows = 0;
    for (const auto& matrix : unit.matrices) rows += matrix.shape[0];
    const bool scaled = format == BaseFormat::kFloat8 && unit.pool == UnitPool::kBlocks;
    return round_up(place_unit(unit, 1, span_format(format, unit.pool, 2)).num_bytes(), kBlock) +
           (scaled ? round_up(rows * 4, kBlock) : 0);
  }

  const at::Device kDevice{at::kCUDA, 0};
  const FrozenSpec spec_ = Decoder::frozen_spec(random_model_config({}));
  TensorMemory before_;
};

TEST_F(FrozenStoreOnGpu, ItsKindsAreWhatLiesThere) {
  const ScratchDirectory scratch;
  write_model(scratch.path(), random_weights(spec_));
  const ModelFiles files(scratch.path());
  for (const auto format : {BaseFormat::kPlain, BaseFormat::kNf4, BaseFormat::kFloat8}) {
    before_ = tensor_memory();
    const FrozenStore store(files, spec_, make_local_communicator(),
                            {.dtype = at::kBFloat16, .format = format, .device = kDevice});
    int64_t base = 0;
    for (const auto& unit : spec_.units) base += bytes_of(unit, format);
    for (const auto& vector : spec_.replicated) base += round_up(vector.shape[0] * 2, kBlock);
    EXPECT_EQ(grown(TensorKind::kBaseShard), base);
    EXPECT_EQ(grown(TensorKind::kGathered), 0);
    EXPECT_EQ(grown(TensorKind::kActivations), 0);
  }
}

// Units that stay are not there yet while shards pass through the device on their way to the host.
TEST_F(FrozenStoreOnGpu, LoadingTakesNoMoreThanWhatStays) {
  const FrozenStore store(
      std::make_unique<RandomWeights>(7), spec_, make_local_communicator(),
      {.dtype = at::kBFloat16, .resident_bytes = int64_t{1} << 30, .device = kDevice, .cpu_offload = true});
  int64_t whole = 0;
  for (const auto& unit : spec_.units) whole += bytes_of(unit, BaseFormat::kPlain);
  EXPECT_EQ(grown(TensorKind::kGathered), whole);
  EXPECT_EQ(tensor_memory().peak_total, tensor_memory().live_total);
}

// What it takes in passing is given back, and lies nowhere between what stays. The allocator asks the driver for whole
// pieces of 2 MiB.
TEST_F(FrozenStoreOnGpu, LoadingLeavesNoGaps) {
  FrozenSpec spec;
  for (int k = 0; k < 5; ++k) {
    const std::string name = "block " + std::to_string(k);
    spec.units.push_back({name, UnitPool::kBlocks, {{name + ".a", {4096, 4096}}, {name + ".b", {1024, 4096}}}});
    spec.forward_order.push_back(k);
  }
  for (const auto format : {BaseFormat::kPlain, BaseFormat::kNf4, BaseFormat::kFloat8}) {
    release_cached_memory();  // of what came before
    const FrozenStore store(std::make_unique<RandomWeights>(7), spec, make_local_communicator(),
                            {.dtype = at::kBFloat16, .format = format, .device = kDevice});
    const int64_t piece = int64_t{2} << 20, tensors = 2 * static_cast<int64_t>(spec.units.size());
    EXPECT_LT(tensor_memory().reserved_bytes - tensor_memory().live_total, tensors * piece);
  }
}

// Wherever it lies: in host memory too, where shards are.
TEST_F(FrozenStoreOnGpu, ABitThatFlipsInItIsSeen) {
  for (const bool offload : {false, true}) {
    FrozenStore store(std::make_unique<RandomWeights>(7), spec_, make_local_communicator(),
                      {.dtype = at::kBFloat16,
                       .format = BaseFormat::kFloat8,
                       .resident_bytes = int64_t{1} << 17,
                       .device = kDevice,
                       .cpu_offload = offload});
    const auto held = store.held();
    for (const auto& tensor : held) {
      BaseCheck check(held);
      check.look_at_all();
      EXPECT_EQ(check.changed(), 0);
      tensor.view({-1}).view(at::kByte)[-1].bitwise_xor_(0x80);
      check.look_at_all();
      EXPECT_EQ(check.changed(), 1);
    }
  }
}

// A file comes through buffers of 16 MiB, and is looked at piece by piece.
TEST_F(FrozenStoreOnGpu, ReadingAFileTakesLittleBesideIt) {
  constexpr int64_t kCount = int64_t{40} << 20;
  const ScratchDirectory scratch;
  at::Tensor weight = at::zeros({kCount}, at::kBFloat16);
  weight[kCount - 1] = std::numeric_limits<float>::infinity();
  write_model(scratch.path(), {{"w", weight}});
  const ModelFiles files(scratch.path());
  TensorLoader loader(files);
  const at::Tensor out = at::empty({kCount}, weight.options().device(kDevice));
  loader.load("w", 0, out, true);
  EXPECT_EQ(loader.nonfinite_tensors(), 1);
  EXPECT_TRUE(out.cpu().equal(weight));
  EXPECT_LT(tensor_memory().peak_total - tensor_memory().live_total, int64_t{48} << 20);
}

}  // namespace
}  // namespace rankwise::testing
