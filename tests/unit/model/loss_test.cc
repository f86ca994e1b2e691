#include "trainer/model/loss.h"

#include <gtest/gtest.h>

#include "tests/support/tolerance.h"

namespace rankwise::testing {
namespace {

constexpr int64_t kChannels = 12, kVocabulary = 57;

at::Tensor targets(int64_t rows) { return (at::arange(rows, at::kLong) * 31 + 5).remainder(kVocabulary); }

at::Tensor reference(const at::Tensor& hidden, const at::Tensor& head, const at::Tensor& targets) {
  return -hidden.mm(head.t()).log_softmax(-1).gather(1, targets.unsqueeze(1)).sum();
}

// Below, at and above the chunk of rows that is computed at a time.
TEST(HeadLoss, IsTheSumOfCrossEntropiesWithAutogradsGradient) {
  const int64_t chunk = head_chunk_rows(at::kCPU);
  for (const int64_t rows : {int64_t{1}, chunk - 1, chunk, chunk + 1, 3 * chunk + 7}) {
    const at::Tensor hidden = with_gradient(numbers({rows, kChannels}, 1) * 3),
                     head = numbers({kVocabulary, kChannels}, 2);
    const at::Tensor expected = reference(hidden, head, targets(rows));
    expected.backward();
    const HeadLoss loss = head_loss(hidden.detach(), head, targets(rows), true);
    EXPECT_NEAR(loss.sum.item<double>() / expected.item<double>(), 1.0, 1e-12) << rows;
    expect_close(loss.dhidden_MC, hidden.grad(), "dhidden");
  }
}

TEST(HeadLoss, IsTheSameWithoutAGradient) {
  const at::Tensor hidden = numbers({300, kChannels}, 1), head = numbers({kVocabulary, kChannels}, 2);
  const HeadLoss with = head_loss(hidden, head, targets(300), true),
                 without = head_loss(hidden, head, targets(300), false);
  EXPECT_TRUE(with.sum.equal(without.sum));
  EXPECT_FALSE(without.dhidden_MC.defined());
}

TEST(HeadLoss, HoldsInTheSmallerDtypes) {
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    const at::Tensor hidden = numbers({200, 64}, 1, dtype), head = numbers({kVocabulary, 64}, 2, dtype);
    const at::Tensor exact = with_gradient(hidden.to(at::kDouble));
    const at::Tensor expected = reference(exact, head.to(at::kDouble), targets(200));
    expected.backward();
    const HeadLoss loss = head_loss(hidden, head, targets(200), true);
    EXPECT_NEAR(loss.sum.item<double>() / expected.item<double>(), 1.0, tolerance(dtype));
    expect_close(loss.dhidden_MC, exact.grad(), c10::toString(dtype));
  }
}

TEST(HeadLoss, SurvivesLogitsBeyondWhatExpCanHold) {
  const at::Tensor head = at::eye(4, at::kFloat) * 500, hidden = at::eye(4, at::kFloat);
  const HeadLoss loss = head_loss(hidden, head, at::tensor({0, 1, 2, 0}, at::kLong), true);
  EXPECT_NEAR(loss.sum.item<double>(), 500.0, 1e-3);  // three are certain and right, the last certain and wrong
  EXPECT_TRUE(loss.dhidden_MC.isfinite().all().item<bool>());
}

TEST(HeadLoss, OfNoTargetIsZero) {
  const HeadLoss loss = head_loss(numbers({0, kChannels}, 1), numbers({kVocabulary, kChannels}, 2), targets(0), true);
  EXPECT_EQ(loss.sum.item<double>(), 0.0);
  EXPECT_EQ(loss.dhidden_MC.sizes(), at::IntArrayRef({0, kChannels}));
}

}  // namespace
}  // namespace rankwise::testing
