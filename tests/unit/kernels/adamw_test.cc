// On a GPU: the kernels beside their reference on the CPU.
#include "trainer/kernels/adamw.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "base/shared_library.h"
#include "tests/support/gpu_test.h"
#include "tests/support/tolerance.h"
#include "trainer/optim/adamw.h"
#include "trainer/optim/clip.h"

namespace rankwise::testing {
namespace {

constexpr AdamWSettings kSettings{
    .learning_rate = 1e-2, .weight_decay = 0.1, .beta1 = 0.9, .beta2 = 0.98, .epsilon = 1e-6, .max_grad_norm = 0.5};

// What a step leaves on the device.
struct State {
  explicit State(const at::Tensor& start)
      : parameters(start.cuda()),
        first_moment(at::zeros_like(parameters)),
        second_moment(at::zeros_like(parameters)),
        compute_copy(at::full_like(parameters, std::numeric_limits<double>::quiet_NaN(), at::kBFloat16)) {}

  AdamWScalars step(const at::Tensor& gradients, double target_tokens, double nonfinite,
                    const AdamWSettings& settings) {
    const at::Tensor device_gradients = gradients.cuda();
    const at::Tensor totals = at::tensor({target_tokens, nonfinite}, at::kDouble).cuda();
    const at::Tensor block_sums =
        at::full({kAdamWBlockSums}, std::numeric_limits<double>::quiet_NaN(), at::kDouble).cuda();
    const at::Tensor scalars = at::full({sizeof(AdamWScalars)}, 0xff, at::kByte).cuda();
    auto* device_scalars = static_cast<AdamWScalars*>(scalars.data_ptr());
    const AdamWPreparation preparation{device_gradients.const_data_ptr<float>(),
                                       gradients.numel(),
                                       totals.const_data_ptr<double>(),
                                       totals.const_data_ptr<double>() + 1,
                                       block_sums.data_ptr<double>(),
                                       steps.data_ptr<int64_t>(),
                                       device_scalars};
    const AdamWBuffers buffers{parameters.data_ptr<float>(),    first_moment.data_ptr<float>(),
                               second_moment.data_ptr<float>(), device_gradients.const_data_ptr<float>(),
                               compute_copy.data_ptr(),         gradients.numel()};
    EXPECT_EQ(cuda_library_function<decltype(rankwise_adamw_prepare)>("rankwise_adamw_prepare")(&preparation, &settings,
                                                                                                nullptr),
              0);
    EXPECT_EQ(cuda_library_function<decltype(rankwise_adamw_step)>("rankwise_adamw_step")(&buffers, device_scalars,
                                                                                          &settings, nullptr),
              0);
    AdamWScalars found;
    std::memcpy(&found, scalars.cpu().const_data_ptr(), sizeof found);
    return found;
  }

  at::Tensor parameters, first_moment, second_moment, compute_copy;
  at::Tensor steps = at::zeros({1}, at::kLong).cuda();
};

class AdamWKernel : public GpuTest {
 protected:
  static at::Tensor random(int64_t count) { return at::randn({count}, at::kFloat); }
};

// 9,000,001: more than there are threads at once. 700 tokens: gradients that are clipped, where there are many.
TEST_F(AdamWKernel, FollowsTheReference) {
  for (const int64_t count : {1, 255, 4096, 9'000'001}) {
    SCOPED_TRACE(count);
    at::Tensor parameters = random(count);
    State ours(parameters);
    AdamW reference(parameters, {.beta1 = 0.9, .beta2 = 0.98, .epsilon = 1e-6, .weight_decay = 0.1});
    for (const double tokens : {0.0, 4.0, 700.0, 1e6}) {
      const at::Tensor gradients = random(count);
      const double divisor = std::max(1.0, tokens), norm = gradient_norm(gradients) / divisor;
      const AdamWScalars found = ours.step(gradients, tokens, /*nonfinite=*/0, kSettings);
      reference.step(gradients, kSettings.learning_rate, clip_factor(norm, kSettings.max_grad_norm) / divisor);
      EXPECT_EQ(found.applied, 1);
      EXPECT_NEAR(found.norm, norm, tolerance(at::kDouble) * norm);
    }
    EXPECT_EQ(ours.steps.item<int64_t>(), reference.steps());
    expect_close(ours.parameters.cpu(), parameters, "parameters");
    expect_close(ours.first_moment.cpu(), reference.first_moment(), "first moment");
    expect_close(ours.second_moment.cpu(), reference.second_moment(), "second moment");
    EXPECT_TRUE(ours.compute_copy.equal(ours.parameters.to(at::kBFloat16)));
  }
}

TEST_F(AdamWKernel, WithoutALimitNothingIsClipped) {
  State ours(random(1000));
  AdamWSettings settings = kSettings;
  settings.max_grad_norm = 0;
  EXPECT_EQ(ours.step(random(1000) * 1e6, 4.0, 0, settings).gradient_scale, 0.25f);
}

TEST_F(AdamWKernel, WhatIsNotFiniteChangesNothing) {
  State ours(random(1001));
  ours.step(random(1001), 8.0, 0, kSettings);
  const at::Tensor parameters = ours.parameters.clone(), moment = ours.second_moment.clone();
  const at::Tensor copy = ours.compute_copy.clone();
  for (const int64_t place : {0, 1000}) {  // the last stands alone, outside the pieces of four
    for (const float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
      const at::Tensor gradients = random(1001);
      gradients[place] = bad;
      EXPECT_EQ(ours.step(gradients, 8.0, 0, kSettings).applied, 0);
    }
  }
  EXPECT_EQ(ours.step(random(1001), 8.0, /*nonfinite=*/1, kSettings).applied, 0);
  EXPECT_TRUE(ours.parameters.equal(parameters));
  EXPECT_TRUE(ours.second_moment.equal(moment));
  EXPECT_TRUE(ours.compute_copy.equal(copy));
  EXPECT_EQ(ours.steps.item<int64_t>(), 1);
}

TEST_F(AdamWKernel, TheSameGradientsGiveTheSameBits) {
  const at::Tensor gradients = random(3'000'001), start = random(3'000'001);
  State once(start), again(start);
  EXPECT_EQ(once.step(gradients, 8.0, 0, kSettings).norm, again.step(gradients, 8.0, 0, kSettings).norm);
  EXPECT_TRUE(once.parameters.equal(again.parameters));
}

TEST_F(AdamWKernel, AnEmptyBufferIsNoError) {
  State ours(random(0));
  EXPECT_EQ(ours.step(random(0), 1.0, 0, kSettings).applied, 1);
}

}  // namespace
}  // namespace rankwise::testing
