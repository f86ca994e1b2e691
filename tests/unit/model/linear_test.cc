#include "trainer/model/linear.h"

#include <gtest/gtest.h>

#include "tests/support/expect_error.h"
#include "tests/support/random_model.h"
#include "tests/support/scratch_directory.h"
#include "tests/support/tolerance.h"

namespace rankwise::testing {
namespace {

constexpr int64_t kTokens = 11, kRank = 3;
constexpr double kScaling = 1.75;

struct Case {
  const char* name;
  int64_t inputs;  // 64: the parts lie without a gap and one GEMM serves them; 48: they do not
  bool bias, residual;
  std::vector<size_t> adapted;  // parts with a LowRank
  double dropout;
};

// Three layers over one input in a store of one rank, their adapters, and the composed form of both.
class Group {
 public:
  explicit Group(const Case& c)
      : case_(c), weights_(random_weights(spec())), store_(make_store()), group_(store_, parts()) {
    const auto count = static_cast<int64_t>(c.adapted.size());
    a_ = numbers({count * kRank, c.inputs}, 3);
    grad_a_ = at::zeros_like(a_);
    for (int64_t k = 0; k < count; ++k) {
      const int64_t outputs = kOutputs[c.adapted[static_cast<size_t>(k)]];
      b_.push_back(numbers({outputs, kRank}, 4 + static_cast<int>(k)));
      grad_b_.push_back(at::zeros({outputs, kRank}, at::kDouble));
      group_.parts()[c.adapted[static_cast<size_t>(k)]].lora = LowRank{
          a_.narrow(0, k * kRank, kRank), b_.back(), grad_a_.narrow(0, k * kRank, kRank), grad_b_.back(), kScaling};
    }
    group_.lora_changed();
  }

  // y, and with dy the gradients of x, all A's and each B, by autograd.
  struct Composed {
    at::Tensor y, dx, da;
    std::vector<at::Tensor> db;
  };
  Composed composed(const at::Tensor& x, const at::Tensor& residual, const at::Tensor& mask,
                    const at::Tensor& dy) const {
    const at::Tensor x_ = with_gradient(x), a = with_gradient(a_);
    std::vector<at::Tensor> b, columns;
    for (const auto& matrix : b_) b.push_back(with_gradient(matrix));
    for (size_t p = 0; p < std::size(kOutputs); ++p) {
      at::Tensor y = x_.mm(weights_.at(name(p) + ".weight").to(at::kDouble).t());
      if (case_.bias) y = y + weights_.at(name(p) + ".bias").to(at::kDouble);
      for (size_t k = 0; k < case_.adapted.size(); ++k) {
        if (case_.adapted[k] != p) continue;
        const at::Tensor a_part = a.narrow(0, static_cast<int64_t>(k) * kRank, kRank);
        y = y + kScaling * (x_ * mask).mm(a_part.t()).mm(b[k].t());
      }
      columns.push_back(y);
    }
    Composed result{at::cat(columns, 1), {}, {}, {}};
    if (residual.defined()) result.y = result.y + residual;
    result.y.backward(dy);
    result.dx = x_.grad();
    result.da = a.grad().defined() ? a.grad() : at::zeros_like(a_);
    for (const auto& matrix : b) result.db.push_back(matrix.grad());
    return result;
  }

  LinearGroup& layers() { return group_; }
  int64_t outputs() const { return kOutputs[0] + kOutputs[1] + kOutputs[2]; }
  const at::Tensor& grad_a() const { return grad_a_; }
  const std::vector<at::Tensor>& grad_b() const { return grad_b_; }

 private:
  static constexpr int64_t kOutputs[] = {64, 32, 32};
  static std::string name(size_t part) { return "layer." + std::to_string(part); }

  FrozenSpec spec() const {
    FrozenSpec spec{{{"block", UnitPool::kBlocks, {}}}, {0}, {0}, {}};
    for (size_t p = 0; p < std::size(kOutputs); ++p) {
      spec.units[0].matrices.push_back({name(p) + ".weight", {kOutputs[p], case_.inputs}});
      if (case_.bias) spec.replicated.push_back({name(p) + ".bias", {kOutputs[p]}});
    }
    return spec;
  }
  FrozenStore make_store() const {
    write_model(scratch_.path(), weights_);
    return FrozenStore(ModelFiles(scratch_.path()), spec(), make_local_communicator(), {.dtype = at::kDouble});
  }
  std::vector<LinearPart> parts() const {
    std::vector<LinearPart> parts;
    for (size_t p = 0; p < std::size(kOutputs); ++p)
      parts.push_back({name(p), case_.inputs, kOutputs[p], case_.bias, std::nullopt});
    return parts;
  }

  Case case_;
  ScratchDirectory scratch_;
  std::map<std::string, at::Tensor> weights_;
  FrozenStore store_;
  LinearGroup group_;
  at::Tensor a_, grad_a_;
  std::vector<at::Tensor> b_, grad_b_;
};

Batch one_sample() {
  Batch batch;
  for (int64_t t = 0; t < kTokens; ++t) {
    batch.ids.push_back(0);
    batch.positions.push_back(t);
  }
  batch.sample_starts = {0, kTokens};
  batch.sample_ids = {4};
  return batch;
}

class Linear : public ::testing::TestWithParam<Case> {};

TEST_P(Linear, IsAutogradsComposedFormForwardAndBackward) {
  Group group(GetParam());
  const Dropout dropout =
      step_dropout({.seed = 1, .step = 2}, 4, one_sample(), GetParam().dropout, at::kCPU).of(3, kQkvInput);
  const at::Tensor x = numbers({kTokens, GetParam().inputs}, 1), dy = numbers({kTokens, group.outputs()}, 2);
  const at::Tensor residual = GetParam().residual ? numbers({kTokens, group.outputs()}, 9) : at::Tensor();
  const at::Tensor mask = dropout.drops()
                              ? dropout_mask(dropout, GetParam().inputs, at::TensorOptions().dtype(at::kDouble))
                              : at::ones({kTokens, GetParam().inputs}, at::kDouble);
  const auto expected = group.composed(x, residual, mask, dy);

  LinearSaved saved;
  expect_close(group.layers().forward(x, residual, dropout, &saved), expected.y, "y");
  expect_close(group.layers().backward(dy, {x}, dropout, saved, /*need_dx=*/true), expected.dx, "dx");
  expect_close(group.grad_a(), expected.da, "dA");
  for (size_t k = 0; k < expected.db.size(); ++k) expect_close(group.grad_b()[k], expected.db[k], "dB");

  // The same input as a norm's output, which backward does not make.
  const at::Tensor rstd = numbers({kTokens, 1}, 7).exp_(), weight = numbers({GetParam().inputs}, 8).exp_();
  const LinearInput normed{x / (rstd * weight), rstd, weight};
  EXPECT_FALSE(group.layers().backward(dy, normed, dropout, saved, /*need_dx=*/false).defined());
  expect_close(group.grad_a(), 2 * expected.da, "gradients add up");
  for (size_t k = 0; k < expected.db.size(); ++k)
    expect_close(group.grad_b()[k], 2 * expected.db[k], "gradients add up");
}

TEST_P(Linear, EvaluationKnowsNoDropout) {
  Group group(GetParam());
  const at::Tensor x = numbers({kTokens, GetParam().inputs}, 1), dy = numbers({kTokens, group.outputs()}, 2);
  const auto expected = group.composed(x, {}, at::ones_like(x), dy);
  expect_close(group.layers().forward(x, {}, {}, nullptr), expected.y, "y");
}

INSTANTIATE_TEST_SUITE_P(Groups, Linear,
                         ::testing::Values(Case{"fused", 64, false, false, {0, 1, 2}, 0.0},
                                           Case{"fused_bias_residual", 64, true, true, {0, 1, 2}, 0.0},
                                           Case{"fused_dropout", 64, true, false, {0, 1, 2}, 0.3},
                                           Case{"fused_some_adapted", 64, false, true, {0, 2}, 0.3},
                                           Case{"fused_none_adapted", 64, true, true, {}, 0.3},
                                           Case{"unfused", 48, false, false, {0, 1, 2}, 0.0},
                                           Case{"unfused_bias_residual", 48, true, true, {0, 1, 2}, 0.3},
                                           Case{"unfused_some_adapted", 48, true, false, {1}, 0.3}),
                         [](const auto& test) { return std::string(test.param.name); });

TEST(LinearGroup, WantsTheAsOfAGroupSideBySide) {
  Group group(Case{"", 64, false, false, {0, 1}, 0.0});
  group.layers().parts()[1].lora->a_RI = group.layers().parts()[1].lora->a_RI.clone();
  EXPECT_ERROR(group.layers().lora_changed(), Error, "not adjacent");
}

}  // namespace
}  // namespace rankwise::testing
