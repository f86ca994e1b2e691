#include "trainer/model/sample_layout.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include <random>
#include <set>
#include <tuple>

#include "trainer/model/attention.h"

namespace rankwise::testing {
namespace {

using ::testing::ElementsAre;

const AttentionShape kShape{4, 2, 8, {}};  // E 64, F 32, K D 16

std::vector<int32_t> numbers_of(const at::Tensor& tensor) {
  const auto* first = tensor.const_data_ptr<int32_t>();
  return {first, first + tensor.numel()};
}

TEST(SampleLayout, PackedSamplesBeginWhereTheirRowsDo) {
  const auto packed = pack_samples({0, 3, 4, 10}, kShape, c10::kCPU);
  ASSERT_TRUE(packed);
  EXPECT_EQ(packed->samples, 8);
  const auto lengths = numbers_of(packed->lengths_S);
  EXPECT_THAT(lengths, ElementsAre(3, 1, 6, 0, 0, 0, 0, 0));
  for (const auto& [first, width] : {std::pair{packed->first_E, 64}, std::pair{packed->first_F, 32},
                                     std::pair{packed->first_KD, 16}, std::pair{packed->first_H, 4}}) {
    const auto seen = numbers_of(first);
    ASSERT_EQ(seen.size(), 9u);
    EXPECT_THAT((std::vector(seen.begin(), seen.begin() + 4)), ElementsAre(0, 3 * width, 4 * width, 10 * width));
    EXPECT_THAT((std::vector(seen.begin() + 4, seen.end())), ::testing::Each(10 * width));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(first.data_ptr()) % 16, 0u);
  }
}

// Batches of up to 8,192 tokens of samples of up to 2,048.
std::vector<int64_t> draw_starts(std::mt19937_64& random) {
  std::vector<int64_t> starts = {0};
  const int64_t usual = std::uniform_int_distribution<int64_t>(50, 2048)(random);
  while (true) {
    const int64_t length = std::uniform_int_distribution<int64_t>(1, usual)(random);
    if (starts.back() + length > 8192) return starts;
    starts.push_back(starts.back() + length);
  }
}

TEST(SampleLayout, BoundsAreFewAndNear) {
  std::mt19937_64 random(7);
  std::set<std::tuple<int64_t, int64_t, int64_t>> bounds;
  for (int batch = 0; batch < 2000; ++batch) {
    const SampleLayout samples(draw_starts(random));
    const auto packed = pack_samples(samples.starts, kShape, c10::kCPU);
    ASSERT_TRUE(packed);
    const auto expect_near = [](int64_t bound, int64_t value, int64_t least) {
      EXPECT_GE(bound, value);
      EXPECT_LE(bound, std::max(least, value + value / 2));
    };
    expect_near(packed->samples, samples.count(), 8);
    expect_near(packed->longest, samples.longest(), 512);
    expect_near(packed->rows, samples.starts.back(), 1024);
    bounds.emplace(packed->samples, packed->longest, packed->rows);
  }
  EXPECT_LT(bounds.size(), 30u);
}

TEST(SampleLayout, MoreElementsThanCanBeCountedAreNotPacked) {
  const int64_t most = std::numeric_limits<int32_t>::max() / kShape.qkv_width();
  EXPECT_TRUE(pack_samples({0, most}, kShape, c10::kCPU));
  EXPECT_FALSE(pack_samples({0, most + 1}, kShape, c10::kCPU));
}

TEST(SampleLayout, DenseAreEqualSamplesOfFewLengths) {
  EXPECT_TRUE(SampleLayout({0, 256, 512}).dense());
  EXPECT_TRUE(SampleLayout({0, 2048}).dense());
  EXPECT_FALSE(SampleLayout({0, 256, 511}).dense());
  EXPECT_FALSE(SampleLayout({0, 257, 514}).dense());
  EXPECT_FALSE(SampleLayout({0, 0}).dense());
}

}  // namespace
}  // namespace rankwise::testing
