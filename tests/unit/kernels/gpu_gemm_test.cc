// On a GPU: large products by cuBLASLt, whichever algorithm is chosen, beside float64 and LibTorch's; and that what was
// timed once is not timed again.
#include "trainer/model/gpu_gemm.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <vector>

#include "base/shared_library.h"
#include "tests/support/gpu_test.h"
#include "tests/support/scratch_directory.h"
#include "tests/support/tolerance.h"
#include "trainer/kernels/gpu_rows.h"
#include "trainer/model/products.h"

namespace rankwise::testing {
namespace {

struct Shape {
  int64_t rows, depth, columns;
};

// Columns of a wider matrix where `wide`.
at::Tensor drawn(int64_t rows, int64_t columns, bool wide) {
  const int64_t before = wide ? 24 : 0, after = wide ? 40 : 0;
  const auto options = at::TensorOptions().device(at::kCUDA);
  return at::randn({rows, before + columns + after}, options).to(at::kBFloat16).narrow(1, before, columns);
}

at::Tensor drawn_factor(int64_t rows, int64_t columns, bool transposed, bool wide) {
  return transposed ? drawn(columns, rows, wide).t() : drawn(rows, columns, wide);
}

struct Case {
  Shape shape;
  bool left_transposed, right_transposed, wide;
  GemmStart kind;
  at::Tensor left, right, out, start, expected, peer;

  Case(const Shape& s, bool left_t, bool right_t, GemmStart k, bool w)
      : shape(s),
        left_transposed(left_t),
        right_transposed(right_t),
        wide(w),
        kind(k),
        left(drawn_factor(s.rows, s.depth, left_t, w)),
        right(drawn_factor(s.depth, s.columns, right_t, w)),
        out(drawn(s.rows, s.columns, w)) {
    if (kind == GemmStart::kOut) start = out;
    if (kind == GemmStart::kOther) start = drawn(s.rows, s.columns, w);
    if (start.defined()) start.mul_(30);  // as large as the product
    expected = left.to(at::kDouble).mm(right.to(at::kDouble));
    if (start.defined()) expected.add_(start.to(at::kDouble));
    peer = start.defined() ? at::addmm(start, left, right) : at::mm(left, right);
  }

  GpuGemm call() const { return large_gemm(out, start, left, right).value(); }
  std::string name() const {
    return fmt::format("{} x {} x {}, transposed {} {}, start {}{}", shape.rows, shape.columns, shape.depth,
                       left_transposed, right_transposed, static_cast<int>(kind), wide ? ", of wider matrices" : "");
  }
};

std::vector<Shape> shapes() {
  std::vector<Shape> all = {{256, 256, 256}, {257, 300, 1031}, {1000, 4096, 768}, {2048, 1024, 4096}};
  const at::Tensor sides = at::randint(256, 1500, {4, 3}, at::kLong);
  for (int64_t i = 0; i < sides.size(0); ++i) {
    const auto* const side = sides.const_data_ptr<int64_t>() + 3 * i;
    all.push_back({side[0], side[1], side[2]});
  }
  return all;
}

class GpuGemmTest : public GpuTest {
 protected:
  // One product: its result, and how many candidates were timed for it.
  static std::pair<at::Tensor, int64_t> product_in(const std::filesystem::path& directory, const Case& c) {
    GpuGemms gemms(directory);
    EXPECT_TRUE(gemms.multiply(c.call()));
    return {c.out.clone(), gemms.num_timed()};
  }

  ScratchDirectory scratch;
  const Shape large{1024, 512, 768};
};

TEST_F(GpuGemmTest, IsAsCloseToFloat64AsLibTorchs) {
  GpuGemms gemms;
  for (const auto& shape : shapes()) {
    for (const bool left_transposed : {false, true}) {
      for (const bool right_transposed : {false, true}) {
        for (const auto kind : {GemmStart::kZeros, GemmStart::kOut, GemmStart::kOther}) {
          const Case c(shape, left_transposed, right_transposed, kind, false);
          SCOPED_TRACE(c.name());
          ASSERT_TRUE(gemms.multiply(c.call()));  // timed
          expect_as_close_as(c.peer, c.out, c.expected, "the first");
          if (kind == GemmStart::kOut) continue;
          ASSERT_TRUE(gemms.multiply(c.call()));  // known
          expect_as_close_as(c.peer, c.out, c.expected, "the second");
        }
      }
    }
  }
  EXPECT_GT(gemms.num_timed(), 0);
}

TEST_F(GpuGemmTest, MatricesMayBeColumnsOfWiderOnes) {
  GpuGemms gemms;
  for (const Shape& shape : {Shape{300, 512, 768}, Shape{1000, 1024, 257}}) {
    for (const auto kind : {GemmStart::kZeros, GemmStart::kOut, GemmStart::kOther}) {
      const Case c(shape, false, true, kind, true);
      SCOPED_TRACE(c.name());
      const int64_t width = c.out.stride(0);
      const at::Tensor whole = c.out.as_strided({shape.rows, width}, {width, 1}, 0), before = whole.clone();
      ASSERT_TRUE(gemms.multiply(c.call()));
      expect_as_close_as(c.peer, c.out, c.expected, "columns");
      before.narrow(1, c.out.storage_offset(), shape.columns).copy_(c.out);
      EXPECT_TRUE(whole.equal(before));  // the others are as they were
    }
  }
}

TEST_F(GpuGemmTest, EachCandidateIsRight) {
  auto* const candidates = cuda_library_function<decltype(rankwise_gemm_candidates)>("rankwise_gemm_candidates");
  auto* const multiply = cuda_library_function<decltype(rankwise_gemm)>("rankwise_gemm");
  auto* const fits = cuda_library_function<decltype(rankwise_gemm_fits)>("rankwise_gemm_fits");
  for (const Shape& shape : {Shape{512, 8192, 256}, Shape{1000, 512, 768}}) {
    const Case c(shape, false, true, GemmStart::kOther, false);
    const GpuGemm call = c.call();
    std::vector<GemmAlgorithm> found(16);
    found.resize(candidates(&call, found.data(), 16));
    EXPECT_GT(found.size(), 1u);
    for (const auto& algorithm : found) {
      EXPECT_TRUE(fits(&call, &algorithm));
      c.out.zero_();
      ASSERT_EQ(multiply(&call, &algorithm, gpu_row_kernels().current_stream()), 0);
      expect_as_close_as(c.peer, c.out, c.expected, "a candidate");
    }
  }
}

TEST_F(GpuGemmTest, TimesAreOfWhatRuns) {
  const Case c(large, false, true, GemmStart::kZeros, false);
  const GpuGemm call = c.call();
  GemmAlgorithm algorithms[3];
  std::ranges::fill(algorithms[1].words, uint64_t{0x5555555555555555});  // none of cuBLASLt's
  auto* const candidates = cuda_library_function<decltype(rankwise_gemm_candidates)>("rankwise_gemm_candidates");
  ASSERT_EQ(candidates(&call, &algorithms[0], 1), 1);
  algorithms[2] = algorithms[0];
  float times[3][4];
  const GemmTiming timing{&call, algorithms, 3, 4, times[0]};
  auto* const time = cuda_library_function<decltype(rankwise_time_gemms)>("rankwise_time_gemms");
  ASSERT_EQ(time(&timing, gpu_row_kernels().current_stream()), 0);
  for (int round = 0; round < 4; ++round) {
    EXPECT_TRUE(times[0][round] > 0 && times[0][round] < 100) << times[0][round];
    EXPECT_TRUE(std::isinf(times[1][round]));
    EXPECT_TRUE(times[2][round] > 0 && times[2][round] < 100) << times[2][round];
  }
  expect_as_close_as(c.peer, c.out, c.expected, "the last run");
}

TEST_F(GpuGemmTest, ASecondStartTimesNothingAndChoosesTheSame) {
  const Case c(large, false, true, GemmStart::kOther, false);
  const auto [first, timed] = product_in(scratch.path(), c);
  EXPECT_GT(timed, 1);
  const auto [second, timed_again] = product_in(scratch.path(), c);
  EXPECT_EQ(timed_again, 0);
  EXPECT_TRUE(second.equal(first));
}

TEST_F(GpuGemmTest, AChoiceHoldsForRowsOfItsGroup) {
  GpuGemms gemms;
  ASSERT_TRUE(gemms.multiply(Case(large, false, true, GemmStart::kZeros, false).call()));
  const int64_t timed = gemms.num_timed();
  const Case near({large.rows - 17, large.depth, large.columns}, false, true, GemmStart::kZeros, false);
  ASSERT_TRUE(gemms.multiply(near.call()));
  expect_as_close_as(near.peer, near.out, near.expected, "fewer rows");
  EXPECT_EQ(gemms.num_timed(), timed);
  const Case far({large.rows / 2, large.depth, large.columns}, false, true, GemmStart::kZeros, false);
  ASSERT_TRUE(gemms.multiply(far.call()));
  EXPECT_GT(gemms.num_timed(), timed);
}

TEST_F(GpuGemmTest, ABrokenFileIsAsNone) {
  const Case c(large, false, true, GemmStart::kZeros, false);
  product_in(scratch.path(), c);
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(scratch.path())) {
    std::ofstream(entry.path()) << "{";
    ++files;
  }
  EXPECT_EQ(files, 1);
  EXPECT_GT(product_in(scratch.path(), c).second, 1);
  EXPECT_EQ(product_in(scratch.path(), c).second, 0);
}

TEST_F(GpuGemmTest, AStoredAlgorithmThatCannotRunIsTimedAnew) {
  const Case c(large, false, true, GemmStart::kZeros, false);
  GemmDevice device{};
  ASSERT_EQ(cuda_library_function<decltype(rankwise_gemm_device)>("rankwise_gemm_device")(&device), 0);
  GemmAlgorithm none;
  std::ranges::fill(none.words, ~uint64_t{0});
  GemmCache(scratch.path(), device).keep(shape_of(c.call()), none);
  const auto [out, timed] = product_in(scratch.path(), c);
  EXPECT_GT(timed, 1);
  expect_as_close_as(c.peer, out, c.expected, "timed anew");
  EXPECT_EQ(product_in(scratch.path(), c).second, 0);
}

TEST_F(GpuGemmTest, WithDeterministicAlgorithmsNothingIsTimedOrKept) {
  struct Deterministic {
    Deterministic() { at::globalContext().setDeterministicAlgorithms(true, false); }
    ~Deterministic() { at::globalContext().setDeterministicAlgorithms(false, false); }
  };
  const Case c(large, false, true, GemmStart::kOther, false);
  const Deterministic scope;
  const auto [first, timed] = product_in(scratch.path(), c);
  EXPECT_EQ(timed, 0);
  EXPECT_TRUE(std::filesystem::is_empty(scratch.path()));
  EXPECT_TRUE(product_in({}, c).first.equal(first));
  expect_as_close_as(c.peer, first, c.expected, "cuBLASLt's first");
}

TEST_F(GpuGemmTest, OtherProductsAreLeftToLibTorch) {
  const at::Tensor left = drawn(512, 512, false), right = drawn(512, 512, false), out = drawn(512, 512, false);
  EXPECT_TRUE(large_gemm(out, {}, left, right));
  EXPECT_TRUE(large_gemm(out, out, left, right.t()));
  EXPECT_FALSE(large_gemm(out, drawn(1, 512, false)[0], left, right));  // a bias
  EXPECT_FALSE(large_gemm(out, out.narrow(0, 0, 1).expand({512, 512}), left, right));
  EXPECT_FALSE(large_gemm(out, {}, left.narrow(1, 0, 255), right.narrow(0, 0, 255)));
  EXPECT_FALSE(large_gemm(out.narrow(0, 0, 255), {}, left.narrow(0, 0, 255), right));
  EXPECT_FALSE(large_gemm(out.narrow(1, 0, 255), {}, left, right.narrow(1, 0, 255)));
  EXPECT_FALSE(large_gemm(out.to(at::kFloat), {}, left.to(at::kFloat), right.to(at::kFloat)));
  EXPECT_FALSE(large_gemm(out.cpu(), {}, left.cpu(), right.cpu()));
  const at::Tensor scattered = at::zeros({512, 2 * 512}, left.options()).as_strided({512, 512}, {1024, 2});
  EXPECT_FALSE(large_gemm(out, {}, scattered, right));
}

// The model's way here.
TEST_F(GpuGemmTest, ASumOfProductsTakesIt) {
  const int64_t timed = gpu_gemms().num_timed();
  const at::Tensor x = drawn(700, 512, false), w = drawn(768, 512, false), s = drawn(700, 16, false);
  const at::Tensor b = drawn(768, 16, false), residual = drawn(700, 768, false);
  const Product products[] = {{x, w.t()}, {s, b.t()}};
  const at::Tensor seen = sum_products(residual, products);
  const auto exact = [](const at::Tensor& tensor) { return tensor.to(at::kDouble); };
  expect_close(seen, exact(residual) + exact(x).mm(exact(w).t()) + exact(s).mm(exact(b).t()), "a sum");
  EXPECT_GT(gpu_gemms().num_timed(), timed);
}

}  // namespace
}  // namespace rankwise::testing
