#include "trainer/model/attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/support/tolerance.h"

namespace rankwise::testing {
namespace {

// T tokens of one sample, as the textbook writes it: softmax(q k^T / sqrt(D) + mask) v, one head at a time.
at::Tensor reference(const at::Tensor& qkv_TE, const AttentionShape& shape) {
  const int64_t length = qkv_TE.size(0), size = shape.head_dim, per_key = shape.num_heads / shape.num_kv_heads;
  const at::Tensor row = at::arange(length).unsqueeze(1), column = at::arange(length).unsqueeze(0);
  at::Tensor hidden = column > row;
  if (shape.sliding_window) hidden = hidden.logical_or(column <= row - *shape.sliding_window);
  std::vector<at::Tensor> outputs;
  for (int64_t h = 0; h < shape.num_heads; ++h) {
    const int64_t k_head = shape.num_heads + h / per_key, v_head = k_head + shape.num_kv_heads;
    const at::Tensor q = qkv_TE.narrow(1, h * size, size), k = qkv_TE.narrow(1, k_head * size, size);
    const at::Tensor scores = q.mm(k.t()) / std::sqrt(static_cast<double>(size));
    const at::Tensor weights = scores.masked_fill(hidden, -std::numeric_limits<double>::infinity()).softmax(-1);
    outputs.push_back(weights.mm(qkv_TE.narrow(1, v_head * size, size)));
  }
  return at::cat(outputs, 1);
}

at::Tensor packed_reference(const at::Tensor& qkv_NE, const std::vector<int64_t>& starts, const AttentionShape& shape) {
  std::vector<at::Tensor> samples;
  for (size_t s = 0; s + 1 < starts.size(); ++s)
    samples.push_back(reference(qkv_NE.narrow(0, starts[s], starts[s + 1] - starts[s]), shape));
  return at::cat(samples);
}

class Attention : public ::testing::TestWithParam<AttentionShape> {
 protected:
  const AttentionShape& shape() const { return GetParam(); }
  const std::vector<int64_t> starts_ = {0, 1, 8, 9, 42};  // samples of one token among longer ones
  at::Tensor qkv(at::ScalarType dtype) const { return numbers({42, shape().qkv_width()}, 1, dtype) * 2; }
};

TEST_P(Attention, IsTheTextbooksInsideEachSample) {
  for (const auto dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
    const at::Tensor out = attention_forward(qkv(dtype), starts_, shape(), nullptr);
    expect_close(out, packed_reference(qkv(dtype).to(at::kDouble), starts_, shape()), c10::toString(dtype));
  }
}

TEST_P(Attention, BackwardIsAutogradsOfTheTextbook) {
  const at::Tensor dout = numbers({42, shape().num_heads * shape().head_dim}, 2);
  for (const auto dtype : {at::kDouble, at::kFloat}) {
    const at::Tensor in = qkv(dtype), exact = with_gradient(in.to(at::kDouble));
    packed_reference(exact, starts_, shape()).backward(dout);
    const at::Tensor out = attention_forward(in, starts_, shape(), nullptr);
    expect_close(attention_backward(dout.to(dtype), in, out, {}, starts_, shape()), exact.grad(), c10::toString(dtype));
  }
}

TEST_P(Attention, APackedSampleIsTheSampleAlone) {
  const at::Tensor all = qkv(at::kDouble), dout = numbers({42, shape().num_heads * shape().head_dim}, 2);
  const at::Tensor out = attention_forward(all, starts_, shape(), nullptr);
  const at::Tensor dqkv = attention_backward(dout, all, out, {}, starts_, shape());
  for (size_t s = 0; s + 1 < starts_.size(); ++s) {
    const int64_t begin = starts_[s], length = starts_[s + 1] - begin;
    const at::Tensor alone = all.narrow(0, begin, length).clone();
    const at::Tensor out_alone = attention_forward(alone, SampleLayout({0, length}), shape(), nullptr);
    expect_close(out_alone, out.narrow(0, begin, length), "output");
    expect_close(attention_backward(dout.narrow(0, begin, length).contiguous(), alone, out_alone, {},
                                    SampleLayout({0, length}), shape()),
                 dqkv.narrow(0, begin, length), "gradient");
  }
}

TEST_P(Attention, WithHistoryGivesTheSameRowsOneByOneAndInBlocks) {
  const at::Tensor all = qkv(at::kDouble);
  const at::Tensor expected = reference(all, shape());
  const QkvViews views = split_qkv(all, shape());
  for (const int64_t step : {1, 5, 42}) {
    for (int64_t done = 0; done < 42; done += step) {
      const int64_t length = std::min<int64_t>(step, 42 - done), seen = done + length;
      const at::Tensor out = attention_with_history(views.q_NHD.narrow(0, done, length), views.k_NKD.narrow(0, 0, seen),
                                                    views.v_NKD.narrow(0, 0, seen), shape());
      expect_close(out, expected.narrow(0, done, length), "rows");
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, Attention,
                         ::testing::Values(AttentionShape{4, 4, 8, std::nullopt}, AttentionShape{6, 2, 8, std::nullopt},
                                           AttentionShape{4, 1, 16, std::nullopt}, AttentionShape{4, 2, 8, 5},
                                           AttentionShape{4, 2, 8, 1}, AttentionShape{4, 2, 8, 33},
                                           AttentionShape{4, 2, 8, 1000}),
                         [](const auto& test) {
                           const AttentionShape& s = test.param;
                           return std::to_string(s.num_heads) + "_heads_" + std::to_string(s.num_kv_heads) + "_keys" +
                                  (s.sliding_window ? "_window_" + std::to_string(*s.sliding_window) : "");
                         });

}  // namespace
}  // namespace rankwise::testing
