// What tests of CUDA kernels begin with.
#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <iostream>
#include <random>

#include "comms/cuda.h"

namespace rankwise::testing {

// Skips where there is no device; else random inputs differ from run to run, and the seed is printed.
class GpuTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (num_cuda_devices() == 0) GTEST_SKIP() << "1 CUDA device needed, 0 here";
    const uint64_t seed = std::random_device{}();
    std::cout << "seed " << seed << "\n";
    at::manual_seed(seed);
  }
};

}  // namespace rankwise::testing
