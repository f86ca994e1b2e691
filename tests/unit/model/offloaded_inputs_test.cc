// Inputs come back as they went while producers and readers are slow, memory is used again at once, and a batch is left
// half way. Needs a CUDA device.
#include "trainer/model/offloaded_inputs.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <vector>

#include "tests/support/gpu_test.h"
#include "trainer/weights/tensor_memory.h"

namespace rankwise {
namespace {

class OffloadedInputsOnGpu : public testing::GpuTest {
 protected:
  void SetUp() override {
    GpuTest::SetUp();
    if (IsSkipped()) return;
    slow_ = at::randn({4096, 4096}, at::kCUDA);
    wrong_ = at::zeros({}, at::TensorOptions().dtype(at::kLong).device(at::kCUDA));
  }

  // Milliseconds of this stream, so that a copy that does not wait for it is early.
  void be_slow() const {
    for (int k = 0; k < 3; ++k) at::mm(slow_, slow_);
  }

  // Takes memory that was just freed and spoils it.
  static void spoil(const at::Tensor& like) {
    for (int k = 0; k < 3; ++k) at::full_like(like, -1);
  }

  void forward(OffloadedInputs& inputs, size_t num_blocks, int64_t tokens, at::ScalarType dtype) {
    expected_.clear();
    for (size_t block = 0; block < num_blocks; ++block) {
      at::Tensor values = at::randn({tokens, 2048}, at::TensorOptions().dtype(dtype).device(at::kCUDA));
      expected_.push_back(values.clone());
      at::Tensor x_NC = at::full_like(values, -2);
      be_slow();
      x_NC.copy_(values);
      inputs.put(block, x_NC);
      x_NC.reset();
      spoil(values);
    }
  }

  // Down to `last`.
  void backward(OffloadedInputs& inputs, size_t last = 0) {
    for (size_t block = expected_.size(); block-- > last;) {
      const at::Tensor x_NC = inputs.take(block);
      be_slow();
      wrong_ += (x_NC != expected_[block]).sum();
    }
  }

  int64_t wrong() const { return wrong_.item<int64_t>(); }

  at::Tensor slow_, wrong_;
  std::vector<at::Tensor> expected_;
};

TEST_F(OffloadedInputsOnGpu, ComeBackAsTheyWent) {
  for (const size_t num_blocks : {1, 2, 3, 4, 9}) {
    OffloadedInputs inputs(slow_.device(), num_blocks);
    for (const int64_t tokens : {1000, 3, 4096, 2048}) {
      for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
        forward(inputs, num_blocks, tokens, dtype);
        backward(inputs);
        EXPECT_EQ(wrong(), 0) << num_blocks << " blocks, " << tokens << " tokens in " << dtype;
      }
    }
  }
}

TEST_F(OffloadedInputsOnGpu, NoMoreThanTwoAreOnTheDevice) {
  count_device_memory(slow_.device());
  constexpr size_t kBlocks = 9;
  OffloadedInputs inputs(slow_.device(), kBlocks);
  const at::Tensor values = at::randn({4096, 2048}, at::kCUDA);
  const auto kept = [before = tensor_memory().live_total] { return tensor_memory().live_total - before; };
  const auto size = static_cast<int64_t>(values.nbytes());
  for (size_t block = 0; block < kBlocks; ++block) {
    inputs.put(block, values.clone());
    EXPECT_EQ(kept(), std::min<int64_t>(static_cast<int64_t>(block) + 1, 2) * size) << block;
  }
  for (size_t block = kBlocks; block-- > 0;) {
    inputs.take(block);
    EXPECT_EQ(kept(), block > 0 ? 2 * size : 0) << block;
  }
}

// As an exception leaves it, at any point.
TEST_F(OffloadedInputsOnGpu, ABatchThatWasLeftHalfWaySpoilsNothing) {
  constexpr size_t kBlocks = 6;
  OffloadedInputs inputs(slow_.device(), kBlocks);
  for (const int64_t tokens : {4096, 2048}) {
    for (size_t put = 1; put < kBlocks; ++put) {
      forward(inputs, put, tokens, at::kFloat);
      forward(inputs, kBlocks, tokens, at::kFloat);
      backward(inputs, /*last=*/put);
      inputs.put(0, at::ones({1, 2048}, at::kCUDA));  // drops what is on the device
      const at::Tensor others = at::full({4, tokens, 2048}, 7, at::kCUDA);
      be_slow();
      forward(inputs, kBlocks, tokens, at::kFloat);
      backward(inputs);
      EXPECT_EQ(wrong(), 0) << put;
      EXPECT_TRUE((others == 7).all().item<bool>()) << put;
    }
  }
}

}  // namespace
}  // namespace rankwise
