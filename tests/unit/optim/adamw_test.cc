#include "trainer/optim/adamw.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/expect_error.h"
#include "tests/support/tolerance.h"

namespace rankwise::testing {
namespace {

// Algorithm 2 of Loshchilov and Hutter 2019, as it stands there: moments corrected first, decay apart from them.
struct Textbook {
  std::vector<long double> p, m, v;
  int t = 0;
  void step(const at::Tensor& gradients, double lr, double scale, const AdamWOptions& o) {
    ++t;
    for (size_t i = 0; i < p.size(); ++i) {
      const long double g = static_cast<long double>(gradients[static_cast<int64_t>(i)].item<double>()) * scale;
      m[i] = o.beta1 * m[i] + (1 - static_cast<long double>(o.beta1)) * g;
      v[i] = o.beta2 * v[i] + (1 - static_cast<long double>(o.beta2)) * g * g;
      const long double m_hat = m[i] / (1 - std::pow(static_cast<long double>(o.beta1), t));
      const long double v_hat = v[i] / (1 - std::pow(static_cast<long double>(o.beta2), t));
      p[i] -= lr * (m_hat / (std::sqrt(v_hat) + o.epsilon) + o.weight_decay * p[i]);
    }
  }
};

Textbook textbook(const at::Tensor& parameters) {
  Textbook book;
  for (int64_t i = 0; i < parameters.numel(); ++i) book.p.push_back(parameters[i].item<double>());
  book.m.assign(book.p.size(), 0);
  book.v.assign(book.p.size(), 0);
  return book;
}

at::Tensor tensor_of(const std::vector<long double>& values) {
  return at::tensor(std::vector<double>(values.begin(), values.end()), at::kDouble);
}

class AdamWDtypes : public ::testing::TestWithParam<at::ScalarType> {};

TEST_P(AdamWDtypes, FollowsTheTextbookOverManySteps) {
  const AdamWOptions options{.beta1 = 0.9, .beta2 = 0.98, .epsilon = 1e-6, .weight_decay = 0.1};
  at::Tensor parameters = numbers({50}, 1, GetParam());
  Textbook expected = textbook(parameters);
  AdamW adamw(parameters, options);
  for (int step = 0; step < 20; ++step) {
    const at::Tensor gradients = numbers({50}, 10 + step, GetParam()) * 8;
    const double lr = 1e-2 / (1 + step), scale = 0.125;
    adamw.step(gradients, lr, scale);
    expected.step(gradients, lr, scale, options);
  }
  expect_close(parameters, tensor_of(expected.p), "parameters");
  expect_close(adamw.first_moment(), tensor_of(expected.m), "first moment");
  expect_close(adamw.second_moment(), tensor_of(expected.v), "second moment");
  EXPECT_EQ(adamw.steps(), 20);
}

INSTANTIATE_TEST_SUITE_P(AdamW, AdamWDtypes, ::testing::Values(at::kFloat, at::kDouble),
                         [](const auto& test) { return std::string(c10::toString(test.param)); });

TEST(AdamW, TheFirstStepIsTheLearningRateInSize) {
  at::Tensor parameters = at::zeros({3}, at::kDouble);
  AdamW(parameters, {}).step(at::tensor({5.0, -1e-3, 0.0}, at::kDouble), 0.01, 1.0);
  expect_close(parameters, at::tensor({-0.01 / (1 + 1e-8 / 5), 0.01 / (1 + 1e-8 / 1e-3), 0.0}, at::kDouble),
               "the sign of the gradient, and no more");
}

TEST(AdamW, DecayAloneShrinksWithoutAGradient) {
  at::Tensor parameters = at::full({4}, 2.0, at::kDouble);
  AdamW(parameters, {.weight_decay = 0.5}).step(at::zeros({4}, at::kDouble), 0.1, 1.0);
  expect_close(parameters, at::full({4}, 2.0 * 0.95, at::kDouble), "parameters");
}

TEST(AdamW, ContinuesInEveryBitFromItsState) {
  at::Tensor parameters = numbers({1000}, 1, at::kFloat);
  AdamW whole(parameters, {.weight_decay = 0.01});
  const auto gradient = [](int step) { return numbers({1000}, 20 + step, at::kFloat); };
  for (int step = 0; step < 5; ++step) whole.step(gradient(step), 1e-3, 0.5);

  at::Tensor resumed_parameters = parameters.clone();
  AdamW resumed(resumed_parameters, {.weight_decay = 0.01});
  resumed.first_moment().copy_(whole.first_moment());
  resumed.second_moment().copy_(whole.second_moment());
  resumed.set_steps(whole.steps());
  for (int step = 5; step < 10; ++step) {
    whole.step(gradient(step), 1e-3, 0.5);
    resumed.step(gradient(step), 1e-3, 0.5);
  }
  EXPECT_TRUE(resumed_parameters.equal(parameters));
}

// The buffer is walked by several threads in pieces: where it is cut must not show.
TEST(AdamW, TreatsEachElementAloneHoweverLongTheBuffer) {
  constexpr int64_t kLong = 100'003;
  at::Tensor all = numbers({kLong}, 1, at::kFloat);
  at::Tensor some = all.slice(0, 40'000, 40'100).clone();
  const at::Tensor gradients = numbers({kLong}, 2, at::kFloat);
  AdamW(all, {}).step(gradients, 1e-2, 1.0);
  AdamW(some, {}).step(gradients.slice(0, 40'000, 40'100).contiguous(), 1e-2, 1.0);
  EXPECT_TRUE(all.slice(0, 40'000, 40'100).equal(some));
}

TEST(AdamW, WantsOneFlatBuffer) {
  EXPECT_ERROR(AdamW(at::zeros({2, 3}), {}), Error, "flat");
  EXPECT_ERROR(AdamW(at::zeros({6}).slice(0, 0, 6, 2), {}), Error, "flat");
}

}  // namespace
}  // namespace rankwise::testing
