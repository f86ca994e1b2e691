#include "trainer/weights/base_check.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <iostream>
#include <random>

namespace rankwise {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;

// Of all sorts: several slices, some bytes over, none, a view inside another.
std::vector<at::Tensor> some_base() {
  const at::Tensor whole = at::randint(256, {5 * kMiB}, at::kByte);
  return {at::randn({10 * kMiB}), at::randn({33}, at::kBFloat16), at::empty({0}), at::randn({48, 7}, at::kBFloat16),
          whole.narrow(0, 2 * kMiB, kMiB)};
}

void look_at_all(BaseCheck& check) {
  for (int k = 0; k < 8; ++k) check.look();
}

TEST(BaseCheck, WhatStaysIsNotSaidToHaveChanged) {
  const auto base = some_base();
  BaseCheck check(base);
  for (int round = 0; round < 3; ++round) look_at_all(check);
  EXPECT_EQ(check.changed(), 0);
  BaseCheck none({});
  none.look();
  EXPECT_EQ(none.changed(), 0);
}

TEST(BaseCheck, SeesAnyBitWithinARound) {
  const uint64_t seed = std::random_device{}();
  std::cout << "seed " << seed << "\n";
  std::mt19937_64 generator(seed);
  const auto base = some_base();
  for (const auto& tensor : base) {
    const auto num_bits = static_cast<int64_t>(8 * tensor.nbytes());
    if (num_bits == 0) continue;
    for (const int64_t bit : {int64_t{0}, num_bits - 1, static_cast<int64_t>(generator() % num_bits)}) {
      BaseCheck check(base);
      static_cast<uint8_t*>(tensor.mutable_data_ptr())[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
      look_at_all(check);
      EXPECT_GE(check.changed(), 1) << "bit " << bit;
    }
  }
}

}  // namespace
}  // namespace rankwise
