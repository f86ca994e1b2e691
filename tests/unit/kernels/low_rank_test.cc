// On a GPU: low-rank terms of linear layers and their gradients beside tensor expressions in float64.
#include "trainer/model/gpu_low_rank.h"

#include <gtest/gtest.h>

#include "tests/support/gpu_test.h"
#include "tests/support/tolerance.h"

namespace rankwise::testing {
namespace {

at::Tensor drawn(at::IntArrayRef shape, at::ScalarType dtype = at::kBFloat16) {
  return at::randn(shape, at::TensorOptions().device(at::kCUDA)).to(dtype);
}

struct Part {
  int64_t columns, rank;  // rank 0: without a pair
};

struct Shape {
  int64_t rows, inputs;
  std::vector<Part> parts;
};
const std::vector<Shape> kShapes = {{1, 32, {{32, 8}}},
                                    {37, 576, {{576, 16}, {192, 16}, {192, 16}}},
                                    {300, 96, {{288, 8}, {64, 0}, {64, 8}}},
                                    {2051, 1024, {{4096, 16}, {1024, 8}, {1024, 16}}},
                                    {16, 4096, {{256, 0}, {512, 8}}}};

std::string describe(const Shape& shape) {
  std::string text = fmt::format("{} rows, {} inputs:", shape.rows, shape.inputs);
  for (const auto& part : shape.parts) text += fmt::format(" {} of rank {}", part.columns, part.rank);
  return text;
}

// A group's pairs, and the same as one block-diagonal matrix in float64.
struct Group {
  std::vector<LowRankSlice> slices;
  at::Tensor a_RI, s_NR, scaled_b_OR;

  explicit Group(const Shape& shape) {
    int64_t outputs = 0, rank = 0;
    for (const auto& part : shape.parts) {
      LowRankSlice& slice = slices.emplace_back(LowRankSlice{.out_begin = outputs, .columns = part.columns});
      outputs += part.columns;
      if (part.rank == 0) continue;
      slice.rank_begin = rank;
      slice.rank = part.rank;
      slice.b_OR = drawn({part.columns, part.rank});
      slice.grad_b_OR = drawn({part.columns, part.rank}, at::kFloat);
      slice.scaling = 0.5 + static_cast<double>(slices.size());
      rank += part.rank;
    }
    a_RI = drawn({rank, shape.inputs});
    s_NR = drawn({shape.rows, rank});
    scaled_b_OR = at::zeros({outputs, rank}, a_RI.options().dtype(at::kDouble));
    for (const auto& slice : slices) {
      if (slice.rank == 0) continue;
      scaled_b_OR.narrow(0, slice.out_begin, slice.columns)
          .narrow(1, slice.rank_begin, slice.rank)
          .copy_(slice.b_OR.to(at::kDouble).mul(slice.scaling));
    }
  }
  int64_t outputs() const { return scaled_b_OR.size(0); }
  at::Tensor s() const { return s_NR.to(at::kDouble); }
  at::Tensor unwritten(int64_t columns) const {
    return at::full({s_NR.size(0), columns}, std::numeric_limits<double>::quiet_NaN(), s_NR.options());
  }
};

class GpuLowRank : public GpuTest {};

TEST_F(GpuLowRank, TermsAreAddedToAnyStart) {
  for (const auto& shape : kShapes) {
    SCOPED_TRACE(describe(shape));
    const Group group(shape);
    ASSERT_TRUE(fits_low_rank(group.slices, group.a_RI));
    const at::Tensor term = group.s().mm(group.scaled_b_OR.t());
    const at::Tensor start = drawn({shape.rows, group.outputs()}), row = drawn({group.outputs()});
    const auto added = [&](std::vector<at::Tensor> starts) {
      at::Tensor out = group.unwritten(group.outputs());
      low_rank_add(out, starts, group.s_NR, group.slices);
      return out;
    };
    expect_rounded_once(added({}), term, "from zero");
    expect_rounded_once(added({start}), term + start.to(at::kDouble), "to a matrix");
    expect_rounded_once(added({start, row}), term + start.to(at::kDouble) + row.to(at::kDouble), "and a row");
    at::Tensor in_place = start.clone();
    low_rank_add(in_place, {{in_place, start}}, group.s_NR, group.slices);
    expect_rounded_once(in_place, term + 2 * start.to(at::kDouble), "in place");
  }
}

TEST_F(GpuLowRank, AIsMetByAllPartsOfDs) {
  for (const auto& shape : kShapes) {
    SCOPED_TRACE(describe(shape));
    const Group group(shape);
    const at::Tensor product = group.s().mm(group.a_RI.to(at::kDouble));
    at::Tensor out = group.unwritten(shape.inputs);
    low_rank_add_a(out, {}, group.s_NR, group.a_RI);
    expect_rounded_once(out, product, "from zero");
    at::Tensor in_place = drawn({shape.rows, shape.inputs});
    const at::Tensor sum = product + in_place.to(at::kDouble);
    low_rank_add_a(in_place, in_place, group.s_NR, group.a_RI);
    expect_rounded_once(in_place, sum, "in place");
  }
}

TEST_F(GpuLowRank, GradientsAreAutogradsInFloat64) {
  for (const auto& shape : kShapes) {
    SCOPED_TRACE(describe(shape));
    const Group group(shape);
    const at::Tensor dy = drawn({shape.rows, group.outputs()});
    const at::Tensor db = dy.to(at::kDouble).t().mm(group.s());
    std::vector<at::Tensor> expected;
    for (const auto& slice : group.slices) {
      if (slice.rank == 0) continue;
      const at::Tensor own = db.narrow(0, slice.out_begin, slice.columns).narrow(1, slice.rank_begin, slice.rank);
      expected.push_back(slice.grad_b_OR.to(at::kDouble) + slice.scaling * own);
    }
    const at::Tensor ds = low_rank_gradient(dy, group.s_NR, group.slices);
    expect_rounded_once(ds, dy.to(at::kDouble).mm(group.scaled_b_OR), "dS");
    size_t k = 0;
    for (const auto& slice : group.slices) {
      if (slice.rank > 0) expect_close(slice.grad_b_OR, expected[k++], "dB");  // in float32: the products are exact
    }
  }
}

TEST_F(GpuLowRank, EqualCallsGiveEqualBits) {
  const Group group(kShapes[3]);
  const at::Tensor dy = drawn({kShapes[3].rows, group.outputs()});
  at::Tensor first_ds, first_db;
  for (int run = 0; run < 3; ++run) {
    for (const auto& slice : group.slices) at::Tensor(slice.grad_b_OR).zero_();
    const at::Tensor ds = low_rank_gradient(dy, group.s_NR, group.slices);
    const at::Tensor db = group.slices[0].grad_b_OR.clone();
    if (run == 0) first_ds = ds, first_db = db;
    EXPECT_TRUE(ds.equal(first_ds) && db.equal(first_db)) << "run " << run;
  }
}

TEST_F(GpuLowRank, KnowsWhichGroupsItTakes) {
  const auto takes = [](const Shape& shape, at::ScalarType dtype = at::kBFloat16) {
    const Group group(shape);
    return fits_low_rank(group.slices, group.a_RI.to(dtype));
  };
  EXPECT_TRUE(takes({3, 64, {{64, 16}}}));
  EXPECT_FALSE(takes({3, 64, {{64, 24}}}));
  EXPECT_FALSE(takes({3, 64, {{40, 8}}}));
  EXPECT_FALSE(takes({3, 40, {{64, 8}}}));
  EXPECT_FALSE(takes({3, 64, {{64, 8}, {64, 8}, {64, 8}, {64, 8}}}));
  EXPECT_FALSE(takes({3, 64, {{64, 16}}}, at::kFloat));
}

}  // namespace
}  // namespace rankwise::testing
