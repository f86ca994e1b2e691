// On a GPU: SwiGLU that makes its low-rank terms and their gradients itself, beside tensor expressions in float64.
#include "trainer/model/gpu_low_rank_mlp.h"

#include <gtest/gtest.h>

#include "tests/support/gpu_test.h"
#include "tests/support/tolerance.h"

namespace rankwise::testing {
namespace {

struct Shape {
  int64_t rows, width, rank;
  double dropout;
};
const Shape kShapes[] = {{1, 32, 8, 0},       {16, 256, 16, 0},     {37, 544, 16, 0.3},  {300, 1536, 8, 0.1},
                         {1000, 4864, 16, 0}, {5003, 96, 16, 0.05}, {2100, 14336, 16, 0}};
constexpr double kGateScaling = 2.0, kUpScaling = 0.5;

at::Tensor drawn(at::IntArrayRef shape, double deviation) {
  return at::randn(shape, at::TensorOptions().device(at::kCUDA)).mul_(deviation).to(at::kBFloat16);
}

LowRank drawn_pair(int64_t rank, int64_t inputs, int64_t outputs, double scaling) {
  const auto gradients = at::TensorOptions().device(at::kCUDA).dtype(at::kFloat);
  return {drawn({rank, inputs}, 0.05), drawn({outputs, rank}, 0.3), at::randn({rank, inputs}, gradients),
          at::randn({outputs, rank}, gradients), scaling};
}

Batch one_sample(int64_t tokens) {
  Batch batch;
  for (int64_t t = 0; t < tokens; ++t) {
    batch.ids.push_back(0);
    batch.positions.push_back(t);
  }
  batch.sample_starts = {0, tokens};
  batch.sample_ids = {11};
  return batch;
}

class GpuLowRankMlp : public GpuTest {};

// One MLP's middle with all that goes in.
struct Case {
  Shape shape;
  int64_t in_features = 24;
  LowRank gate, up, down;
  Dropout dropout;
  at::Tensor gate_up, s, dh, ds_down;

  explicit Case(const Shape& c)
      : shape(c),
        gate(drawn_pair(c.rank, in_features, c.width, kGateScaling)),
        up(drawn_pair(c.rank, in_features, c.width, kUpScaling)),
        down(drawn_pair(c.rank, c.width, in_features, 1.0)),
        dropout(step_dropout({.seed = 5, .step = 1}, 3, one_sample(c.rows), c.dropout, at::kCUDA).of(2, kDownInput)),
        gate_up(drawn({c.rows, 2 * c.width}, 1)),
        s(drawn({c.rows, 2 * c.rank}, 0.5)),
        dh(drawn({c.rows, c.width}, 1)),
        ds_down(drawn({c.rows, c.rank}, 0.5)) {}

  LowRankMlp mlp() const { return {&gate, &up, &down, dropout}; }

  at::Tensor mask() const {
    if (shape.dropout == 0) return at::ones({shape.rows, shape.width}, s.options().dtype(at::kDouble));
    const Dropout here{dropout.row_keys_N.cpu(), dropout.p};
    return dropout_mask(here, shape.width, at::TensorOptions().dtype(at::kDouble)).cuda();
  }
};

// What follows in float64, by autograd.
struct Expected {
  at::Tensor h, s_down, dgate_up, ds, grad_b_gate, grad_b_up, grad_a_down;

  explicit Expected(const Case& c) {
    const auto exact = [](const at::Tensor& tensor) { return with_gradient(tensor.to(at::kDouble)); };
    const at::Tensor raw = exact(c.gate_up), s_exact = exact(c.s), a = exact(c.down.a_RI);
    const at::Tensor b_gate = exact(c.gate.b_OR), b_up = exact(c.up.b_OR);
    const auto halves = raw.chunk(2, 1), s_halves = s_exact.chunk(2, 1);
    const at::Tensor gate = halves[0] + kGateScaling * s_halves[0].mm(b_gate.t());
    h = gate * gate.sigmoid() * (halves[1] + kUpScaling * s_halves[1].mm(b_up.t()));
    s_down = (h * c.mask()).mm(a.t());
    // Its gradients are those of <dh, h> + <ds_down, s_down>.
    (h * c.dh.to(at::kDouble)).sum().add((s_down * c.ds_down.to(at::kDouble)).sum()).backward();
    dgate_up = raw.grad();
    ds = s_exact.grad();
    grad_b_gate = b_gate.grad() + c.gate.grad_b_OR;
    grad_b_up = b_up.grad() + c.up.grad_b_OR;
    grad_a_down = a.grad() + c.down.grad_a_RI;
  }
};

TEST_F(GpuLowRankMlp, ForwardIsAutogradsInFloat64) {
  for (const auto& shape : kShapes) {
    SCOPED_TRACE(fmt::format("{} x {}, rank {}, dropout {}", shape.rows, shape.width, shape.rank, shape.dropout));
    const Case c(shape);
    const Expected expected(c);
    const at::Tensor before = c.gate_up.clone();
    const LowRankSwiglu made = low_rank_swiglu(c.mlp(), c.gate_up, c.s);
    expect_rounded_once(made.h_NI, expected.h, "h");
    expect_close(made.s_down_NR, expected.s_down, "S of down");
    EXPECT_TRUE(c.gate_up.equal(before));
  }
}

TEST_F(GpuLowRankMlp, BackwardIsAutogradsInFloat64) {
  for (const auto& shape : kShapes) {
    SCOPED_TRACE(fmt::format("{} x {}, rank {}, dropout {}", shape.rows, shape.width, shape.rank, shape.dropout));
    Case c(shape);
    const Expected expected(c);
    const at::Tensor ds = low_rank_swiglu_backward(c.mlp(), c.dh, c.ds_down, c.gate_up, c.s);
    expect_rounded_once(c.gate_up, expected.dgate_up, "gate and up");
    expect_close(ds, expected.ds, "dS");
    for (const auto& [gradient, exact, what] : {std::tuple(c.gate.grad_b_OR, expected.grad_b_gate, "B of gate"),
                                                std::tuple(c.up.grad_b_OR, expected.grad_b_up, "B of up"),
                                                std::tuple(c.down.grad_a_RI, expected.grad_a_down, "A of down")}) {
      EXPECT_LT(relative_difference(gradient, exact), tolerance(at::kBFloat16)) << what;  // products of rounded numbers
    }
  }
}

TEST_F(GpuLowRankMlp, EqualCallsGiveEqualBits) {
  const Case c({3000, 4096, 16, 0.1});
  std::vector<at::Tensor> first;
  for (int run = 0; run < 3; ++run) {
    Case again = c;
    for (auto* tensor : {&again.gate.grad_b_OR, &again.up.grad_b_OR, &again.down.grad_a_RI, &again.gate_up})
      *tensor = tensor->clone();
    const LowRankSwiglu made = low_rank_swiglu(again.mlp(), again.gate_up, again.s);
    const at::Tensor ds = low_rank_swiglu_backward(again.mlp(), again.dh, again.ds_down, again.gate_up, again.s);
    const std::vector<at::Tensor> all = {
        made.h_NI, made.s_down_NR, ds, again.gate_up, again.gate.grad_b_OR, again.up.grad_b_OR, again.down.grad_a_RI};
    if (first.empty()) first = all;
    for (size_t k = 0; k < all.size(); ++k) EXPECT_TRUE(all[k].equal(first[k])) << "run " << run << ", output " << k;
  }
}

TEST_F(GpuLowRankMlp, KnowsWhichMlpsItTakes) {
  const auto takes = [](std::array<int64_t, 3> ranks, int64_t width, at::ScalarType dtype, at::Device device) {
    return shares_passes(ranks, width, dtype, device);
  };
  EXPECT_TRUE(takes({16, 16, 16}, 14336, at::kBFloat16, at::kCUDA));
  EXPECT_TRUE(takes({8, 8, 8}, 96, at::kBFloat16, at::kCUDA));
  EXPECT_FALSE(takes({16, 16, 8}, 14336, at::kBFloat16, at::kCUDA));
  EXPECT_FALSE(takes({32, 32, 32}, 14336, at::kBFloat16, at::kCUDA));
  EXPECT_FALSE(takes({0, 0, 0}, 14336, at::kBFloat16, at::kCUDA));
  EXPECT_FALSE(takes({16, 16, 16}, 14344, at::kBFloat16, at::kCUDA));
  EXPECT_FALSE(takes({16, 16, 16}, 14336, at::kFloat, at::kCUDA));
  EXPECT_FALSE(takes({16, 16, 16}, 14336, at::kBFloat16, at::kCPU));
}

}  // namespace
}  // namespace rankwise::testing
