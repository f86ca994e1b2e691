// What tests of CUDA kernels begin with.
#pragma once

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <iostream>
#include <random>
#include <string>

#include "comms/cuda.h"

namespace rankwise::testing {

// Why a test of so many devices cannot run here; empty: it can.
inline std::string missing_devices(int needed) {
  const int here = num_cuda_devices();
  return here >= needed ? "" : fmt::format("{} CUDA device(s) needed, {} here", needed, here);
}

// Skips where there is no device; else random inputs differ from run to run, and the seed is printed.
class GpuTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const std::string reason = missing_devices(1); !reason.empty()) GTEST_SKIP() << reason;
    const uint64_t seed = std::random_device{}();
    std::cout << "seed " << seed << "\n";
    at::manual_seed(seed);
  }
};

}  // namespace rankwise::testing
