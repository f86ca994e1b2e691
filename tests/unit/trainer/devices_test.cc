#include "trainer/devices.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "tests/support/expect_error.h"

namespace rankwise {
namespace {

TEST(RequireProducts, AFloat8BaseIsRefusedByGpusThatDoNotMultiplyInIt) {
  EXPECT_ERROR(require_products(BaseFormat::kFloat8, ComputeCapability{8, 9}), ConfigError, "model.base_dtype: float8",
               "9.0 or more", "this one has 8.9", "set nf4 or same");
  EXPECT_ERROR(require_products(BaseFormat::kFloat8, ComputeCapability{7, 5}), ConfigError, "this one has 7.5");
}

TEST(RequireProducts, NewerGpusAndCpusTakeIt) {
  EXPECT_NO_THROW(require_products(BaseFormat::kFloat8, ComputeCapability{9, 0}));
  EXPECT_NO_THROW(require_products(BaseFormat::kFloat8, ComputeCapability{12, 0}));
  EXPECT_NO_THROW(require_products(BaseFormat::kFloat8, std::nullopt));
}

TEST(RequireProducts, WhatIsExpandedIsMultipliedByAll) {
  EXPECT_NO_THROW(require_products(BaseFormat::kNf4, ComputeCapability{8, 0}));
  EXPECT_NO_THROW(require_products(BaseFormat::kPlain, ComputeCapability{8, 0}));
}

}  // namespace
}  // namespace rankwise
