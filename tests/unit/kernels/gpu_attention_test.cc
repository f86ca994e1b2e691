// On a GPU: attention as a model calls it, beside the same in float64 and beside FlashAttention's own distance from
// that.
#include "trainer/kernels/gpu_attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "base/shared_library.h"
#include "tests/support/gpu_test.h"
#include "tests/support/tolerance.h"
#include "trainer/model/attention.h"

namespace rankwise::testing {
namespace {

struct Result {
  at::Tensor out_NF, dqkv_NE;
  bool by_cudnn = false;
};

struct Inputs {
  at::Tensor qkv_NE, dout_NF;
};

class GpuAttention : public GpuTest {
 protected:
  static constexpr auto kCuda = c10::kCUDA;

  void TearDown() override { at::globalContext().setDeterministicAlgorithms(false, false); }

  static Inputs draw(int64_t rows, const AttentionShape& shape, at::ScalarType dtype = at::kBFloat16) {
    const auto options = at::TensorOptions().dtype(at::kFloat).device(kCuda);
    return {(at::randn({rows, shape.qkv_width()}, options) * 1.5).to(dtype),
            at::randn({rows, shape.num_heads * shape.head_dim}, options).to(dtype)};
  }

  static int64_t draw_number(int64_t least, int64_t most) {
    return at::randint(least, most + 1, {1}, at::kLong).item<int64_t>();
  }

  static std::vector<int64_t> draw_starts(int64_t samples, int64_t longest) {
    std::vector<int64_t> starts = {0};
    for (int64_t s = 0; s < samples; ++s)
      starts.push_back(starts.back() + (s % 5 == 3 ? 1 : draw_number(1, longest)));  // some of one token
    return starts;
  }

  static std::vector<int64_t> equal_starts(int64_t samples, int64_t length) {
    std::vector<int64_t> starts;
    for (int64_t s = 0; s <= samples; ++s) starts.push_back(s * length);
    return starts;
  }

  // What is written nowhere is then NaN: the allocator hands out these blocks again.
  static void poison_free_memory(const Inputs& in, const AttentionShape& shape) {
    const double nan = std::numeric_limits<double>::quiet_NaN();
    const at::Tensor out = at::full_like(in.dout_NF, nan), dqkv = at::full_like(in.qkv_NE, nan);
    const at::Tensor dkv = at::full({2, in.qkv_NE.size(0), shape.num_kv_heads, shape.head_dim}, nan, dqkv.options());
    const at::Tensor logsumexp = at::full({in.qkv_NE.size(0) * shape.num_heads}, nan, out.options().dtype(at::kFloat));
    const at::Tensor workspace = at::full({int64_t{1} << 30}, 255, out.options().dtype(at::kByte));
  }

  static Result ours(const Inputs& in, const std::vector<int64_t>& starts, const AttentionShape& shape) {
    const SampleLayout samples(starts, kCuda, shape);
    poison_free_memory(in, shape);
    AttentionSaved saved;
    const at::Tensor out = attention_forward(in.qkv_NE, samples, shape, &saved);
    return {out, attention_backward(in.dout_NF, in.qkv_NE, out, saved, samples, shape), saved.by_cudnn};
  }

  static Result exact(const Inputs& in, const std::vector<int64_t>& starts, const AttentionShape& shape) {
    const at::Tensor qkv = in.qkv_NE.to(at::kDouble);
    const at::Tensor out = attention_forward(qkv, starts, shape, nullptr);
    return {out, attention_backward(in.dout_NF.to(at::kDouble), qkv, out, {}, starts, shape)};
  }

  static Result flash(const Inputs& in, const std::vector<int64_t>& starts, const AttentionShape& shape) {
    const SampleLayout samples(starts, kCuda, shape);
    const QkvViews views = split_qkv(in.qkv_NE, shape);
    const int64_t longest = samples.longest();
    const double scale = 1.0 / std::sqrt(static_cast<double>(shape.head_dim));
    std::optional<int64_t> left, right;
    if (shape.sliding_window) left = *shape.sliding_window - 1, right = 0;
    const auto [out, logsumexp, seed, offset, unused] = at::_flash_attention_forward(
        views.q_NHD, views.k_NKD, views.v_NKD, samples.starts_S, samples.starts_S, longest, longest, 0.0,
        /*is_causal=*/true, false, scale, left, right);
    const auto [dq, dk, dv] = at::_flash_attention_backward(
        in.dout_NF.view(out.sizes()), views.q_NHD, views.k_NKD, views.v_NKD, out, logsumexp, samples.starts_S,
        samples.starts_S, longest, longest, 0.0, /*is_causal=*/true, seed, offset, scale, left, right);
    return {out.flatten(1), at::cat({dq, dk, dv}, 1).flatten(1)};
  }

  // No further from float64 than FlashAttention is: a tenth for chance. Gradients are measured by all of their row: a
  // token that sees itself alone has none at q and k.
  static void expect_as_near(const at::Tensor& seen, const at::Tensor& peer, const at::Tensor& expected,
                             const at::Tensor& measure, const char* what) {
    ASSERT_EQ(seen.sizes(), expected.sizes()) << what;
    const auto distance = [&](const at::Tensor& from) {
      return ((from.to(at::kDouble) - expected).norm() / measure.norm()).item<double>();
    };
    EXPECT_LT(distance(seen), 1.1 * distance(peer) + tolerance(at::kFloat)) << what;
  }

  static Result expect_as_near(const Inputs& in, const std::vector<int64_t>& starts, const AttentionShape& shape) {
    const Result seen = ours(in, starts, shape), peer = flash(in, starts, shape), expected = exact(in, starts, shape);
    expect_as_near(seen.out_NF, peer.out_NF, expected.out_NF, expected.out_NF, "output");
    const QkvViews s = split_qkv(seen.dqkv_NE, shape), p = split_qkv(peer.dqkv_NE, shape);
    const QkvViews e = split_qkv(expected.dqkv_NE, shape);
    expect_as_near(s.q_NHD, p.q_NHD, e.q_NHD, expected.dqkv_NE, "dq");
    expect_as_near(s.k_NKD, p.k_NKD, e.k_NKD, expected.dqkv_NE, "dk");
    expect_as_near(s.v_NKD, p.v_NKD, e.v_NKD, expected.dqkv_NE, "dv");
    return seen;
  }

  static std::string name(const AttentionShape& shape, const std::vector<int64_t>& starts) {
    return fmt::format("{} heads, {} keys of {}, window {}, samples at {}", shape.num_heads, shape.num_kv_heads,
                       shape.head_dim, shape.sliding_window.value_or(0), fmt::join(starts, " "));
  }
};

// Each with its own plans, which take time: few.
const AttentionShape kShapes[] = {{4, 4, 64, {}}, {9, 3, 64, {}}, {8, 2, 128, {}}, {32, 8, 128, {}}};
const AttentionShape kSmall = kShapes[2];

TEST_F(GpuAttention, PackedSamplesOfAnyLength) {
  for (const AttentionShape& shape : kShapes) {
    for (int batch = 0; batch < 5; ++batch) {  // plans of one batch serve the next
      const auto starts = draw_starts(draw_number(2, 21), 700);
      SCOPED_TRACE(name(shape, starts));
      EXPECT_TRUE(expect_as_near(draw(starts.back(), shape), starts, shape).by_cudnn);
    }
  }
}

TEST_F(GpuAttention, ASampleAloneAndOneOfOneToken) {
  for (const int64_t length : {1, 65, 1500}) {
    for (const AttentionShape& shape : kShapes) {
      const std::vector<int64_t> starts = {0, length};
      SCOPED_TRACE(name(shape, starts));
      EXPECT_TRUE(expect_as_near(draw(length, shape), starts, shape).by_cudnn);
    }
  }
}

TEST_F(GpuAttention, ManySamples) {  // more than the least that plans are made for, on either side of a bound
  for (const int64_t samples : {8, 9, 40, 150}) {
    const auto starts = draw_starts(samples, 40);
    SCOPED_TRACE(name(kSmall, starts));
    EXPECT_TRUE(expect_as_near(draw(starts.back(), kSmall), starts, kSmall).by_cudnn);
  }
}

TEST_F(GpuAttention, EqualSamples) {
  for (const AttentionShape& shape : kShapes) {
    for (const auto& [samples, length] : {std::pair<int64_t, int64_t>{1, 256}, {3, 768}, {4, 2048}, {7, 100}}) {
      const auto starts = equal_starts(samples, length);
      SCOPED_TRACE(name(shape, starts));
      EXPECT_TRUE(expect_as_near(draw(starts.back(), shape), starts, shape).by_cudnn);
    }
  }
}

TEST_F(GpuAttention, SlidingWindows) {
  for (AttentionShape shape : {AttentionShape{4, 2, 64, {}}, {8, 8, 128, {}}}) {
    for (const int64_t window : {1, 5, 128, 333, 100'000}) {
      shape.sliding_window = window;
      for (const auto& starts : {draw_starts(9, 700), equal_starts(3, 512)}) {
        const std::string which = name(shape, starts);
        SCOPED_TRACE(which);
        const bool by_cudnn = expect_as_near(draw(starts.back(), shape), starts, shape).by_cudnn;
        std::cout << "window " << window << ": " << (by_cudnn ? "cuDNN" : "FlashAttention") << "\n";
      }
    }
  }
}

TEST_F(GpuAttention, WithoutAMemoryOfForward) {  // evaluation
  const auto starts = draw_starts(9, 300);
  const Inputs in = draw(starts.back(), kSmall);
  const SampleLayout samples(starts, kCuda, kSmall);
  const at::Tensor out = attention_forward(in.qkv_NE, samples, kSmall, nullptr);
  EXPECT_TRUE(out.equal(ours(in, starts, kSmall).out_NF));
}

TEST_F(GpuAttention, DeterministicRunsGiveEqualBits) {
  at::globalContext().setDeterministicAlgorithms(true, false);
  for (const AttentionShape& shape : kShapes) {
    for (const auto& starts : {draw_starts(12, 700), equal_starts(4, 1024)}) {
      SCOPED_TRACE(name(shape, starts));
      const Inputs in = draw(starts.back(), shape);
      const Result first = expect_as_near(in, starts, shape);
      std::cout << (first.by_cudnn ? "cuDNN" : "FlashAttention") << "\n";
      for (int again = 0; again < 3; ++again) {
        const Result next = ours(in, starts, shape);
        EXPECT_TRUE(next.out_NF.equal(first.out_NF));
        EXPECT_TRUE(next.dqkv_NE.equal(first.dqkv_NE));
      }
    }
  }
}

TEST_F(GpuAttention, FlashAttentionServesWhatCudnnDoesNot) {
  const auto starts = draw_starts(9, 300);
  EXPECT_FALSE(expect_as_near(draw(starts.back(), kSmall, at::kHalf), starts, kSmall).by_cudnn);
}

TEST_F(GpuAttention, APlanIsMadeOnce) {
  at::empty({1}, at::TensorOptions(kCuda));  // the device is in use
  auto* const plan = cuda_library_function<decltype(rankwise_attention_plan)>("rankwise_attention_plan");
  GpuAttentionShape shape{.heads = 8,
                          .kv_heads = 2,
                          .head_dim = 64,
                          .window = 0,
                          .samples = 16,
                          .longest = 256,
                          .rows = 1024,
                          .packed = true,
                          .deterministic = false};
  const GpuAttentionPlan* first = plan(&shape, false);
  ASSERT_NE(first, nullptr);
  EXPECT_EQ(first->refusal, nullptr);
  EXPECT_EQ(first->backward_workspace_bytes, 0);
  EXPECT_EQ(plan(&shape, true), first);
  EXPECT_GT(first->backward_workspace_bytes, 0);
  shape.rows = 2048;
  EXPECT_NE(plan(&shape, false), first);
}

TEST_F(GpuAttention, ARefusalHasAReasonAndIsNotComputed) {
  at::empty({1}, at::TensorOptions(kCuda));
  auto* const make = cuda_library_function<decltype(rankwise_attention_plan)>("rankwise_attention_plan");
  auto* const forward = cuda_library_function<decltype(rankwise_attention_forward)>("rankwise_attention_forward");
  auto* const failure = cuda_library_function<decltype(rankwise_attention_failure)>("rankwise_attention_failure");
  const GpuAttentionShape shape{.heads = 4,
                                .kv_heads = 4,
                                .head_dim = 1028,
                                .window = 0,
                                .samples = 1,
                                .longest = 64,
                                .rows = 64,
                                .packed = false,
                                .deterministic = false};
  const GpuAttentionPlan* plan = make(&shape, true);
  ASSERT_NE(plan, nullptr);
  ASSERT_NE(plan->refusal, nullptr);
  EXPECT_NE(std::string(plan->refusal), "");
  const GpuAttentionForward call{
      .plan = plan, .offsets = {}, .qkv_NE = nullptr, .out_NF = nullptr, .logsumexp = nullptr, .workspace = nullptr};
  EXPECT_EQ(forward(&call, nullptr), 1);
  EXPECT_STREQ(failure(), plan->refusal);
}

}  // namespace
}  // namespace rankwise::testing
