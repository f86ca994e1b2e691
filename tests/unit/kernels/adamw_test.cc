// On a GPU: the kernel beside its reference on the CPU.
#include "trainer/kernels/adamw.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "base/shared_library.h"
#include "comms/cuda.h"
#include "tests/support/tolerance.h"
#include "trainer/optim/adamw.h"

namespace rankwise::testing {
namespace {

class AdamWKernel : public ::testing::Test {
 protected:
  void SetUp() override {
    if (num_cuda_devices() == 0) GTEST_SKIP() << "1 CUDA device needed, 0 here";
    step_ = reinterpret_cast<decltype(&rankwise_adamw_step)>(
        shared_library_symbol("librankwise_cuda.so", "rankwise_adamw_step"));
  }

  struct State {
    at::Tensor parameters, first_moment, second_moment;
  };
  static State start(int64_t count) {
    return {numbers({count}, 1, at::kFloat).cuda(), at::zeros({count}, at::kFloat).cuda(),
            at::zeros({count}, at::kFloat).cuda()};
  }
  void step(State& s, const at::Tensor& gradients, float scale, int t) const {
    const at::Tensor device_gradients = gradients.cuda(), device_scale = at::full({1}, scale).cuda();
    const AdamWBuffers buffers{s.parameters.data_ptr<float>(),       s.first_moment.data_ptr<float>(),
                               s.second_moment.data_ptr<float>(),    device_gradients.const_data_ptr<float>(),
                               device_scale.const_data_ptr<float>(), s.parameters.numel()};
    const AdamWFactors factors{.keep = static_cast<float>(1 - kRate * kDecay),
                               .beta1 = 0.9f,
                               .beta2 = 0.98f,
                               .step_size = static_cast<float>(kRate / (1 - std::pow(0.9, t))),
                               .inverse_root_correction2 = static_cast<float>(1 / std::sqrt(1 - std::pow(0.98, t))),
                               .epsilon = 1e-6f};
    ASSERT_EQ(step_(&buffers, &factors, /*stream=*/nullptr), 0);
  }

  static constexpr double kRate = 1e-2, kDecay = 0.1;
  decltype(&rankwise_adamw_step) step_ = nullptr;
};

// 3,000,001: more than there are threads at once.
TEST_F(AdamWKernel, FollowsTheReference) {
  for (const int64_t count : {1, 255, 3'000'001}) {
    State ours = start(count);
    at::Tensor parameters = ours.parameters.cpu();
    AdamW reference(parameters, {.beta1 = 0.9, .beta2 = 0.98, .epsilon = 1e-6, .weight_decay = kDecay});
    for (int t = 1; t <= 5; ++t) {
      const at::Tensor gradients = numbers({count}, 10 + t, at::kFloat);
      step(ours, gradients, 0.25f, t);
      reference.step(gradients, kRate, 0.25);
    }
    expect_close(ours.parameters.cpu(), parameters, "parameters");
    expect_close(ours.first_moment.cpu(), reference.first_moment(), "first moment");
    expect_close(ours.second_moment.cpu(), reference.second_moment(), "second moment");
  }
}

TEST_F(AdamWKernel, AScaleThatIsNotFiniteChangesNothing) {
  State ours = start(1000);
  step(ours, numbers({1000}, 2, at::kFloat), 1.0f, 1);
  const at::Tensor parameters = ours.parameters.clone(), moment = ours.second_moment.clone();
  for (const float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    step(ours, numbers({1000}, 3, at::kFloat), bad, 2);
  }
  EXPECT_TRUE(ours.parameters.equal(parameters));
  EXPECT_TRUE(ours.second_moment.equal(moment));
}

TEST_F(AdamWKernel, AnEmptyBufferIsNoError) {
  State ours = start(0);
  step(ours, at::zeros({0}, at::kFloat), 1.0f, 1);
}

}  // namespace
}  // namespace rankwise::testing
