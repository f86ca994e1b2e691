#include "trainer/model/dropout.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/counter_random.h"
#include "tests/support/tolerance.h"

namespace rankwise::testing {
namespace {

constexpr int64_t kWidth = 257;
constexpr int64_t kLayers = 4;

// Where a mask stands.
struct Place {
  uint64_t seed;
  int64_t step, layer;
  InputGroup group;
};
constexpr Place kPlace{.seed = 7, .step = 3, .layer = 2, .group = kOutputInput};

struct Sample {
  int64_t id, length;
};

Batch batch_of(const std::vector<Sample>& samples) {
  Batch batch;
  batch.sample_starts.push_back(0);
  for (const auto& sample : samples) {
    for (int64_t t = 0; t < sample.length; ++t) {
      batch.ids.push_back(0);
      batch.positions.push_back(t);
    }
    batch.sample_starts.push_back(batch.num_tokens());
    batch.sample_ids.push_back(sample.id);
  }
  return batch;
}

Dropout dropout_at(const Place& place, const Batch& batch, double p = 0.25) {
  return step_dropout({place.seed, place.step}, kLayers, batch, p, at::kCPU).of(place.layer, place.group);
}

at::Tensor mask(const Place& place, const Batch& batch, double p = 0.25) {
  return dropout_mask(dropout_at(place, batch, p), kWidth, at::TensorOptions().dtype(at::kDouble));
}

TEST(DropoutMask, HoldsZeroAndTheScaleThatKeepsTheMean) {
  for (const double p : {0.05, 0.25, 0.5, 0.9}) {
    const at::Tensor values = mask(kPlace, batch_of({{1, 300}, {9, 100}}), p);
    const at::Tensor dropped = values.eq(0);
    EXPECT_TRUE(values.eq(1 / (1 - p)).logical_or(dropped).all().item<bool>()) << p;
    const double sigma = std::sqrt(p * (1 - p) / static_cast<double>(values.numel()));
    EXPECT_NEAR(dropped.to(at::kDouble).mean().item<double>(), p, 5 * sigma);
    EXPECT_NEAR(dropped.to(at::kDouble).mean(0).sub(p).abs().max().item<double>(), 0, 6 * std::sqrt(p * (1 - p) / 400))
        << "by feature";
  }
}

TEST(DropoutMask, NothingIsDroppedAtZero) { EXPECT_FALSE(dropout_at(kPlace, batch_of({{1, 10}}), 0.0).drops()); }

// A change of any one gives a mask that agrees with the first by chance alone.
TEST(DropoutMask, DependsOnEachPartOfItsKey) {
  const Batch batch = batch_of({{5, 400}});
  const at::Tensor first = mask(kPlace, batch).eq(0);
  const double by_chance = 0.25 * 0.25 + 0.75 * 0.75,
               sigma = std::sqrt(by_chance * (1 - by_chance) / static_cast<double>(first.numel()));
  std::vector<at::Tensor> others = {mask({8, 3, 2, kOutputInput}, batch), mask({7, 4, 2, kOutputInput}, batch),
                                    mask({7, 3, 3, kOutputInput}, batch), mask({7, 3, 2, kGateUpInput}, batch),
                                    mask({7, 2, 3, kOutputInput}, batch), mask(kPlace, batch_of({{6, 400}}))};
  for (size_t k = 0; k < others.size(); ++k) {
    EXPECT_NEAR(others[k].eq(0).eq(first).to(at::kDouble).mean().item<double>(), by_chance, 5 * sigma) << k;
  }
}

TEST(DropoutMask, NeighbouringRowsAndFeaturesAreIndependent) {
  const at::Tensor dropped = mask(kPlace, batch_of({{5, 400}}), 0.5).eq(0);
  const auto agreement = [](const at::Tensor& a, const at::Tensor& b) {
    return a.eq(b).to(at::kDouble).mean().item<double>();
  };
  EXPECT_NEAR(agreement(dropped.narrow(0, 0, 399), dropped.narrow(0, 1, 399)), 0.5, 0.01);
  EXPECT_NEAR(agreement(dropped.narrow(1, 0, 256), dropped.narrow(1, 1, 256)), 0.5, 0.01);
}

// A sample keeps its mask wherever it lies, in whatever company.
TEST(DropoutMask, DoesNotDependOnTheBatchLayout) {
  const at::Tensor alone = mask(kPlace, batch_of({{5, 20}}));
  EXPECT_TRUE(mask(kPlace, batch_of({{1, 7}, {5, 20}, {2, 3}})).narrow(0, 7, 20).equal(alone));
  EXPECT_TRUE(mask(kPlace, batch_of({{5, 33}})).narrow(0, 0, 20).equal(alone)) << "a longer sample starts alike";
}

TEST(DropoutMask, IsTheSameInEveryDtype) {
  const Batch batch = batch_of({{5, 50}});
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    EXPECT_TRUE(dropout_mask(dropout_at(kPlace, batch), kWidth, at::TensorOptions().dtype(dtype))
                    .eq(0)
                    .equal(mask(kPlace, batch).eq(0)));
  }
}

// Masks that were drawn keep their numbers: a run goes on from its checkpoint with them.
TEST(DropoutMask, IsTheFunctionThatItWas) {
  uint64_t key = random64(kPlace.seed, 0);
  for (const uint64_t word : {3, 2, 1}) key = random64(key, word);
  const at::Tensor drawn = mask(kPlace, batch_of({{40, 2}, {2, 3}}));
  const uint64_t samples[] = {40, 40, 2, 2, 2}, positions[] = {0, 1, 0, 1, 2};
  for (int64_t n = 0; n < 5; ++n) {
    const uint64_t row = random64(random64(key, samples[n]), positions[n]);
    for (int64_t c = 0; c < kWidth; ++c)
      ASSERT_EQ(drawn[n][c].item<double>() == 0, (random64(row, static_cast<uint64_t>(c)) >> 32) < (1u << 30));
  }
}

}  // namespace
}  // namespace rankwise::testing
