// On a GPU: the row kernels beside the tensor expressions of trainer/model/, these in float64 and on the CPU.
#include "trainer/kernels/gpu_rows.h"

#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "base/counter_random.h"
#include "base/shared_library.h"
#include "tests/support/gpu_test.h"
#include "tests/support/tolerance.h"
#include "trainer/model/dropout.h"
#include "trainer/model/mlp.h"
#include "trainer/model/norm.h"
#include "trainer/model/rope.h"

namespace rankwise::testing {
namespace {

class GpuRows : public GpuTest, public ::testing::WithParamInterface<at::ScalarType> {
 protected:
  GpuType type() const { return GetParam() == at::kFloat ? GpuType::kFloat32 : GpuType::kBFloat16; }
  at::Tensor random(at::IntArrayRef shape) const { return at::randn(shape, at::kFloat).to(GetParam()); }
  at::Tensor poisoned(at::IntArrayRef shape) const { return poisoned(shape, GetParam()); }
  static at::Tensor poisoned(at::IntArrayRef shape, at::ScalarType dtype) {
    return at::full(shape, std::numeric_limits<double>::quiet_NaN(), dtype).cuda();
  }
  template <typename Call>
  static int run(const char* symbol, const Call& call) {
    return cuda_library_function<int(const Call*, void*)>(symbol)(&call, /*stream=*/nullptr);
  }
};

struct Shape {
  int64_t rows, columns;
};
// Up to 16,384 columns a row is held in registers. The second last fills a block of threads unevenly.
const Shape kShapes[] = {{3, 64}, {70'000, 64}, {5, 576}, {3, 4096}, {3, 5120}, {3, 14'344}, {2, 40'968}};

TEST_P(GpuRows, RmsNormRoundsAsItsReference) {
  for (const auto [rows, columns] : kShapes) {
    SCOPED_TRACE(columns);
    const at::Tensor x = random({rows, columns}), weight = random({columns});
    const at::Tensor x_gpu = x.cuda(), weight_gpu = weight.cuda();
    const at::Tensor normed = poisoned({rows, columns}), rstd = poisoned({rows}, at::kFloat);
    const GpuRmsNorm call{type(),
                          x_gpu.const_data_ptr(),
                          weight_gpu.const_data_ptr(),
                          normed.data_ptr(),
                          rstd.data_ptr<float>(),
                          rows,
                          columns,
                          1e-5f};
    ASSERT_EQ(run("rankwise_rms_norm", call), 0);
    const at::Tensor rstd_N1 = rstd.cpu().unsqueeze(1);
    expect_close(rstd_N1, rms_norm_rstd(x.to(at::kDouble), 1e-5), "rstd");
    EXPECT_TRUE(normed.cpu().equal(rms_norm_apply(x, rstd_N1, weight)));
  }
}

TEST_P(GpuRows, RmsNormBackward) {
  for (const auto [rows, columns] : kShapes) {
    for (const bool accumulate : {false, true}) {
      SCOPED_TRACE(columns);
      const at::Tensor x = random({rows, columns}), weight = random({columns}), dnormed = random({rows, columns});
      const at::Tensor before = random({rows, columns}), rstd_N1 = rms_norm_rstd(x, 1e-5);
      const at::Tensor x_gpu = x.cuda(), weight_gpu = weight.cuda(), dnormed_gpu = dnormed.cuda();
      const at::Tensor rstd_gpu = rstd_N1.cuda();
      const at::Tensor gradient = accumulate ? before.cuda() : poisoned({rows, columns});
      ASSERT_EQ(run("rankwise_rms_norm_backward",
                    GpuRmsNormBackward{type(), dnormed_gpu.const_data_ptr(), x_gpu.const_data_ptr(),
                                       weight_gpu.const_data_ptr(), rstd_gpu.const_data_ptr<float>(),
                                       gradient.data_ptr(), rows, columns, accumulate}),
                0);
      at::Tensor expected = rms_norm_backward(dnormed.to(at::kDouble, /*non_blocking=*/false, /*copy=*/true),
                                              x.to(at::kDouble), rstd_N1.to(at::kDouble), weight.to(at::kDouble));
      if (accumulate) expected = expected + before.to(at::kDouble);
      expect_rounded_once(gradient.cpu(), expected, "gradient");
    }
  }
}

// Of 40 heads of 128 and 9 of 256 float32 a block does not hold all at once; 96 is no power of two.
TEST_P(GpuRows, HeadNormAndItsGradientLeaveTheOtherHeadsAlone) {
  for (const auto& [rows, heads, head_dim] :
       {std::tuple<int64_t, int64_t, int64_t>{3, 1, 8}, {2000, 3, 64}, {3, 5, 96}, {70, 40, 128}, {3, 9, 256}}) {
    SCOPED_TRACE(head_dim);
    const int64_t others = 2;
    const at::Tensor wide = random({rows, heads + others, head_dim}), weight = random({head_dim});
    const at::Tensor wide_gpu = wide.cuda(), weight_gpu = weight.cuda();
    const at::Tensor before = poisoned({rows, heads + 1, head_dim});
    const GpuHeadNorm forward{.type = type(),
                              .x_NHD = wide_gpu.data_ptr(),
                              .weight_D = weight_gpu.const_data_ptr(),
                              .before_NHD = before.data_ptr(),
                              .rows = rows,
                              .stride = wide.stride(0),
                              .before_stride = before.stride(0),
                              .heads = heads,
                              .head_dim = head_dim,
                              .eps = 1e-5f};
    ASSERT_EQ(run("rankwise_head_norm", forward), 0);
    const at::Tensor x = wide.narrow(1, 0, heads);
    const at::Tensor exact_rstd = rms_norm_rstd(x.to(at::kDouble), 1e-5);
    expect_close(wide_gpu.cpu().narrow(1, 0, heads),
                 rms_norm_apply(x.to(at::kDouble), exact_rstd, weight.to(at::kDouble)), "normed");
    EXPECT_TRUE(wide_gpu.cpu().narrow(1, heads, others).equal(wide.narrow(1, heads, others)));
    EXPECT_TRUE(before.cpu().narrow(1, 0, heads).equal(x));
    EXPECT_TRUE(before.narrow(1, heads, 1).isnan().all().item<bool>());

    const at::Tensor gradient = random({rows, heads + others, head_dim}), gradient_gpu = gradient.cuda();
    ASSERT_EQ(run("rankwise_head_norm_backward", GpuHeadNormBackward{.type = type(),
                                                                     .gradient_NHD = gradient_gpu.data_ptr(),
                                                                     .x_NHD = before.const_data_ptr(),
                                                                     .weight_D = weight_gpu.const_data_ptr(),
                                                                     .rows = rows,
                                                                     .stride = gradient.stride(0),
                                                                     .x_stride = before.stride(0),
                                                                     .heads = heads,
                                                                     .head_dim = head_dim,
                                                                     .eps = 1e-5f}),
              0);
    expect_rounded_once(
        gradient_gpu.cpu().narrow(1, 0, heads),
        rms_norm_backward(gradient.narrow(1, 0, heads).to(at::kDouble, /*non_blocking=*/false, /*copy=*/true),
                          x.to(at::kDouble), exact_rstd, weight.to(at::kDouble)),
        "gradient");
    EXPECT_TRUE(gradient_gpu.cpu().narrow(1, heads, others).equal(gradient.narrow(1, heads, others)));
  }
}

// Head sizes 12 and 24: half a head is no whole number of 16-byte pieces.
TEST_P(GpuRows, RopeTurnsTheFirstHeadsAlone) {
  constexpr int64_t kHeads = 7, kTurned = 5;
  for (const auto& [rows, head_dim] :
       {std::pair<int64_t, int64_t>{3, 12}, {3, 16}, {3, 24}, {2000, 64}, {3, 128}, {3, 256}}) {
    for (const bool inverse : {false, true}) {
      SCOPED_TRACE(head_dim);
      const at::Tensor x = random({rows, kHeads, head_dim}), angle = at::randn({rows, 1, head_dim / 2}, at::kDouble);
      const RopeAngles angles{angle.cos().to(GetParam()), angle.sin().to(GetParam())};
      const at::Tensor x_gpu = x.cuda(), cos_gpu = angles.cos_N1D.cuda(), sin_gpu = angles.sin_N1D.cuda();
      ASSERT_EQ(
          run("rankwise_rope", GpuRope{type(), x_gpu.data_ptr(), cos_gpu.const_data_ptr(), sin_gpu.const_data_ptr(),
                                       rows, kHeads * head_dim, kTurned, head_dim, inverse}),
          0);
      const at::Tensor expected = x.narrow(1, 0, kTurned).to(at::kDouble);
      apply_rope(expected, {angles.cos_N1D.to(at::kDouble), angles.sin_N1D.to(at::kDouble)}, inverse);
      expect_rounded_once(x_gpu.cpu().narrow(1, 0, kTurned), expected, "turned");
      const int64_t others = kHeads - kTurned;
      EXPECT_TRUE(x_gpu.cpu().narrow(1, kTurned, others).equal(x.narrow(1, kTurned, others)));
    }
  }
}

TEST_P(GpuRows, SwigluAndItsGradient) {
  for (const auto [rows, width] : kShapes) {
    SCOPED_TRACE(width);
    const at::Tensor gate_up = random({rows, 2 * width}) * 3, dh = random({rows, width});
    const at::Tensor gate_up_gpu = gate_up.cuda(), dh_gpu = dh.cuda(), h = poisoned({rows, width});
    ASSERT_EQ(run("rankwise_swiglu", GpuSwiglu{type(), gate_up_gpu.const_data_ptr(), h.data_ptr(), rows, width}), 0);
    at::Tensor expected = gate_up.to(at::kDouble);
    expect_rounded_once(h.cpu(), swiglu(expected), "h");
    EXPECT_TRUE(gate_up_gpu.cpu().equal(gate_up));

    ASSERT_EQ(run("rankwise_swiglu_backward",
                  GpuSwigluBackward{type(), dh_gpu.const_data_ptr(), gate_up_gpu.data_ptr(), rows, width}),
              0);
    swiglu_backward(dh.to(at::kDouble), expected);
    expect_rounded_once(gate_up_gpu.cpu(), expected, "gradient");
  }
}

TEST_P(GpuRows, SwigluFarFromZero) {
  const at::Tensor gate_up = at::tensor({-1000., -88.5, -100., 89., 1000., 0., -50., 50.}).repeat({1, 2});
  const at::Tensor gate_up_gpu = gate_up.to(GetParam()).cuda(), h = poisoned({1, 8});
  const at::Tensor dh_gpu = at::ones({1, 8}, GetParam()).cuda();
  at::Tensor expected = gate_up.to(GetParam()).to(at::kDouble);
  ASSERT_EQ(run("rankwise_swiglu", GpuSwiglu{type(), gate_up_gpu.const_data_ptr(), h.data_ptr(), 1, 8}), 0);
  expect_rounded_once(h.cpu(), swiglu(expected), "h");
  ASSERT_EQ(
      run("rankwise_swiglu_backward", GpuSwigluBackward{type(), dh_gpu.const_data_ptr(), gate_up_gpu.data_ptr(), 1, 8}),
      0);
  swiglu_backward(at::ones({1, 8}, at::kDouble), expected);
  expect_rounded_once(gate_up_gpu.cpu(), expected, "gradient");
}

// Also vocabularies whose rows begin and end anywhere.
TEST_P(GpuRows, CrossEntropy) {
  constexpr int64_t kRows = 9;
  for (const int64_t columns : {3, 1000, 1003, 32'001, 49'152, 128'256}) {
    SCOPED_TRACE(columns);
    const at::Tensor logits = random({kRows, columns}) * 4, targets = at::randint(columns, {kRows}, at::kLong);
    targets[0] = 0;
    targets[1] = columns - 1;
    const at::Tensor logits_gpu = logits.cuda(), targets_gpu = targets.cuda(), loss = poisoned({kRows}, at::kFloat);
    GpuCrossEntropy call{
        type(),  logits_gpu.data_ptr(),  targets_gpu.const_data_ptr<int64_t>(), loss.data_ptr<float>(), kRows,
        columns, /*with_gradient=*/false};
    ASSERT_EQ(run("rankwise_cross_entropy", call), 0);
    const at::Tensor log_p = logits.to(at::kDouble).log_softmax(1), targets_N1 = targets.unsqueeze(1);
    const at::Tensor expected = -log_p.gather(1, targets_N1).squeeze(1);
    expect_close(loss.cpu(), expected, "loss");
    EXPECT_TRUE(logits_gpu.cpu().equal(logits));

    loss.fill_(std::numeric_limits<double>::quiet_NaN());
    call.with_gradient = true;
    ASSERT_EQ(run("rankwise_cross_entropy", call), 0);
    expect_close(loss.cpu(), expected, "loss");
    const at::Tensor minus_one = at::full({kRows, 1}, -1.0, at::kDouble);
    expect_rounded_once(logits_gpu.cpu(), log_p.exp().scatter_add(1, targets_N1, minus_one), "gradient");
  }
}

TEST_P(GpuRows, CrossEntropyHidesNothingThatIsNotFinite) {
  const double infinity = std::numeric_limits<double>::infinity();
  for (const double odd : {infinity, std::numeric_limits<double>::quiet_NaN(), -infinity}) {
    const at::Tensor logits = random({1, 1000});
    logits.narrow(1, 300, 500).fill_(odd);
    const at::Tensor logits_gpu = logits.cuda(), targets_gpu = at::zeros({1}, at::kLong).cuda();
    const at::Tensor loss = poisoned({1}, at::kFloat);
    ASSERT_EQ(run("rankwise_cross_entropy",
                  GpuCrossEntropy{type(), logits_gpu.data_ptr(), targets_gpu.const_data_ptr<int64_t>(),
                                  loss.data_ptr<float>(), 1, 1000, /*with_gradient=*/false}),
              0);
    if (odd == -infinity) {  // a word that is ruled out
      expect_close(loss.cpu(), -logits.to(at::kDouble).log_softmax(1).select(1, 0), "loss");
    } else {
      EXPECT_FALSE(loss.isfinite().all().item<bool>()) << odd;
    }
  }
}

// 2^31 logits and more: the last row stands where 32 bits do not reach.
TEST_P(GpuRows, CrossEntropyOfMoreThan32BitsCanCount) {
  constexpr int64_t kRows = 16'800, kColumns = 128'256;
  const at::Tensor row = random({kColumns});
  const at::Tensor logits = at::zeros({kRows, kColumns}, at::TensorOptions(GetParam()).device(at::kCUDA));
  logits.select(0, kRows - 1).copy_(row);
  const at::Tensor targets = at::full({kRows}, 7, at::kLong).cuda(), loss = poisoned({kRows}, at::kFloat);
  ASSERT_EQ(
      run("rankwise_cross_entropy", GpuCrossEntropy{type(), logits.data_ptr(), targets.const_data_ptr<int64_t>(),
                                                    loss.data_ptr<float>(), kRows, kColumns, /*with_gradient=*/true}),
      0);
  const at::Tensor expected = row.to(at::kDouble).softmax(0);
  expected[7] -= 1.0;
  expect_rounded_once(logits.select(0, kRows - 1).cpu(), expected, "gradient");
  EXPECT_TRUE(logits.select(0, 0).equal(logits.select(0, kRows - 2)));
}

TEST_P(GpuRows, DropoutMaskIsTheReferencesBitForBit) {
  const Batch batch{.ids = {5, 6, 7, 8, 9},
                    .positions = {0, 1, 0, 1, 2},
                    .sample_starts = {0, 2, 5},
                    .sample_ids = {40, 2},
                    .target_rows = {},
                    .targets = {}};
  for (const int64_t width : {8, 64, 576, 14'344}) {
    for (const double p : {0.05, 0.1, 0.5}) {
      const auto drawn = [&](at::Device device) {
        return dropout_mask(step_dropout({.seed = 7, .step = 3}, 3, batch, p, device).of(2, kOutputInput), width,
                            at::TensorOptions().dtype(GetParam()).device(device));
      };
      EXPECT_TRUE(drawn(at::kCUDA).cpu().equal(drawn(at::kCPU))) << width << " " << p;
    }
  }
}

// More tokens than threads of a block.
TEST_P(GpuRows, DropoutsRowKeysAreTheReferences) {
  Batch batch;
  for (const int64_t length : {1, 2500, 7}) {
    batch.sample_starts.push_back(batch.num_tokens());
    batch.sample_ids.push_back(3 * length);
    for (int64_t t = 0; t < length; ++t) batch.positions.push_back(t);
    batch.ids.resize(batch.positions.size());
  }
  batch.sample_starts.push_back(batch.num_tokens());
  const auto keys = [&](at::Device device) { return step_dropout({1, 2}, 5, batch, 0.1, device).row_keys_MN.cpu(); };
  EXPECT_TRUE(keys(at::kCUDA).equal(keys(at::kCPU)));
}

TEST_P(GpuRows, NoRowsIsNoError) {
  EXPECT_EQ(run("rankwise_rms_norm", GpuRmsNorm{}), 0);
  EXPECT_EQ(run("rankwise_rms_norm_backward", GpuRmsNormBackward{}), 0);
  EXPECT_EQ(run("rankwise_head_norm", GpuHeadNorm{}), 0);
  EXPECT_EQ(run("rankwise_head_norm_backward", GpuHeadNormBackward{}), 0);
  EXPECT_EQ(run("rankwise_rope", GpuRope{}), 0);
  EXPECT_EQ(run("rankwise_swiglu", GpuSwiglu{}), 0);
  EXPECT_EQ(run("rankwise_swiglu_backward", GpuSwigluBackward{}), 0);
  EXPECT_EQ(run("rankwise_cross_entropy", GpuCrossEntropy{}), 0);
  EXPECT_EQ(run("rankwise_dropout_row_keys", GpuDropoutRowKeys{}), 0);
  EXPECT_EQ(run("rankwise_dropout_mask", GpuDropoutMask{}), 0);
}

INSTANTIATE_TEST_SUITE_P(Types, GpuRows, ::testing::Values(at::kFloat, at::kBFloat16),
                         [](const auto& param_info) { return std::string(c10::toString(param_info.param)); });

}  // namespace
}  // namespace rankwise::testing
