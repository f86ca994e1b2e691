// Needs a CUDA device.
#include "trainer/model/gpu_graph.h"

#include <ATen/ATen.h>

#include "tests/support/gpu_test.h"
#include "trainer/weights/tensor_memory.h"

namespace rankwise {
namespace {

class GpuRecorderOnGpu : public testing::GpuTest {
 protected:
  void SetUp() override {
    GpuTest::SetUp();
    if (IsSkipped()) return;
    count_device_memory(c10::Device(c10::kCUDA, 0));
    x_ = at::ones({1000}, at::kCUDA);
  }

  // z = 2 x + 1 in two graphs, y between them.
  std::vector<GpuGraph> record(GpuRecorder& recorder) {
    return recorder.record({[this] { y_ = x_ * 2; }, [this] { z_ = y_ + 1; }});
  }

  void expect_launched(const std::vector<GpuGraph>& graphs, double x) {
    x_.fill_(x);
    for (const GpuGraph& graph : graphs) graph.launch();
    EXPECT_TRUE(z_.eq(2 * x + 1).all().item<bool>()) << x;
  }

  void forget(std::vector<GpuGraph>& graphs) {
    graphs.clear();
    y_.reset();
    z_.reset();
    release_cached_memory();
  }

  at::Tensor x_, y_, z_;
};

TEST_F(GpuRecorderOnGpu, EachLaunchReadsItsInputsAnew) {
  GpuRecorder recorder(x_.device());
  const auto graphs = record(recorder);
  for (const double x : {3.0, -5.0, 0.25}) expect_launched(graphs, x);
}

TEST_F(GpuRecorderOnGpu, WhatWasRecordedCanBeForgottenAndRecordedAgain) {
  GpuRecorder recorder(x_.device());
  for (int turn = 0; turn < 3; ++turn) {
    auto graphs = record(recorder);
    expect_launched(graphs, turn);
    for (const GpuGraph& graph : graphs) graph.launch();  // on its way when it is forgotten
    forget(graphs);
  }
}

TEST_F(GpuRecorderOnGpu, ForgettingGivesTheMemoryBack) {
  GpuRecorder recorder(x_.device());
  auto first = record(recorder);
  forget(first);
  const int64_t before = tensor_memory().reserved_bytes;
  auto graphs = recorder.record({[this] { y_ = at::zeros({256 << 20}, x_.options()); }, [this] { z_ = y_ + 1; }});
  EXPECT_GE(tensor_memory().reserved_bytes - before, int64_t{2} << 30);
  forget(graphs);
  EXPECT_EQ(tensor_memory().reserved_bytes, before);
}

TEST_F(GpuRecorderOnGpu, NoRoomWhileRecordingLeavesTheDeviceUsable) {
  GpuRecorder recorder(x_.device());
  const auto too_much = [this] { at::zeros({int64_t{1} << 38}, x_.options()); };
  for (int turn = 0; turn < 2; ++turn)
    EXPECT_THROW(recorder.record({[this] { y_ = x_ * 2; }, too_much}), c10::OutOfMemoryError);
  release_cached_memory();
  EXPECT_EQ(at::ones({1000}, at::kCUDA).sum().item<double>(), 1000);
  expect_launched(record(recorder), 7);
}

}  // namespace
}  // namespace rankwise
