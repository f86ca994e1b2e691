// The codec against its definition, written out number by number. tests/parity/test_packed_parity.py has bitsandbytes.
#include "trainer/weights/nf4.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/support/expect_error.h"
#include "tests/support/tolerance.h"
#include "trainer/kernels/nf4.h"

namespace rankwise::testing {
namespace {

constexpr int64_t kSpanBytes = sizeof(Nf4Span);

at::Tensor spans_for(int64_t count) {
  return at::zeros({(count + kNf4SpanElements - 1) / kNf4SpanElements, kSpanBytes}, at::kByte);
}

at::Tensor mean_of(const at::Tensor& maxima) { return maxima.mean(at::kDouble).to(at::kFloat); }

// All of a matrix in one piece.
at::Tensor packed(const at::Tensor& values) {
  const at::Tensor spans = spans_for(values.numel());
  const at::Tensor maxima = nf4_pack_codes(values, spans);
  nf4_pack_maxima(maxima, mean_of(maxima), spans);
  return spans;
}

at::Tensor there_and_back(const at::Tensor& values, at::ScalarType dtype = at::kFloat) {
  return nf4_expand(packed(values).view({-1}), values.numel(), dtype);
}

template <size_t kSize>
float nearest_entry(const std::array<float, kSize>& table, double value) {
  const auto further = [&](float a, float b) { return std::abs(a - value) < std::abs(b - value); };
  return *std::ranges::min_element(table, further);
}

// Block by block, of quotients in float64.
at::Tensor reference(const at::Tensor& values) {
  const auto* x = values.const_data_ptr<float>();
  const int64_t count = values.numel(), num_blocks = (count + kNf4Block - 1) / kNf4Block;
  std::vector<float> maxima(static_cast<size_t>(num_blocks), 0.0f);
  for (int64_t i = 0; i < count; ++i) maxima[i / kNf4Block] = std::max(maxima[i / kNf4Block], std::abs(x[i]));
  const auto offset = static_cast<float>(std::accumulate(maxima.begin(), maxima.end(), 0.0) / double(num_blocks));
  std::vector<float> kept;
  for (int64_t b = 0; b < num_blocks; ++b) {
    const int64_t first = b / kNf4BlocksOfSpan * kNf4BlocksOfSpan,
                  last = std::min(first + kNf4BlocksOfSpan, num_blocks);
    float scale = 0;
    for (int64_t k = first; k < last; ++k) scale = std::max(scale, std::abs(maxima[k] - offset));
    kept.push_back(nearest_entry(kNf4Maxima, (maxima[b] - offset) / double(scale)) * scale + offset);
  }
  const at::Tensor out = at::empty({count}, at::kFloat);
  for (int64_t i = 0; i < count; ++i) {
    const auto b = static_cast<size_t>(i / kNf4Block);
    out[i] = nearest_entry(kNf4Values, maxima[b] == 0 ? 0.0 : x[i] / double(maxima[b])) * kept[b];
  }
  return out;
}

TEST(Nf4, GivesTheNearestValuesInEveryLength) {
  for (const int64_t count : {1, 63, 64, 65, 1000, 16'384, 16'385, 40'001}) {
    SCOPED_TRACE(count);
    const at::Tensor values = at::randn({count}, at::kFloat);
    EXPECT_TRUE(there_and_back(values).equal(reference(values)));
  }
}

TEST(Nf4, KeepsWhatItsTablesHold) {
  const at::Tensor table = at::tensor(at::ArrayRef<float>(kNf4Values.data(), kNf4Values.size()));
  const at::Tensor values = table.repeat({8}).mul(0.25);  // the maxima are equal: no offset is left
  EXPECT_TRUE(there_and_back(values).equal(values));
}

TEST(Nf4, BlocksOfZerosStayZero) {
  at::Tensor values = at::randn({1000}, at::kFloat);
  values.narrow(0, 64, 128).zero_();
  const at::Tensor back = there_and_back(values);
  EXPECT_TRUE(back.equal(reference(values)));
  EXPECT_EQ(back.narrow(0, 64, 128).abs().max().item<float>(), 0.0f);
  EXPECT_EQ(there_and_back(at::zeros({100}, at::kFloat)).abs().max().item<float>(), 0.0f);
}

TEST(Nf4, PartsMakeTheSameBytesAsTheWhole) {
  const int64_t count = 5 * kNf4SpanElements + 100, cut = 2 * kNf4SpanElements;
  const at::Tensor values = at::randn({count}, at::kFloat), spans = spans_for(count);
  const at::Tensor head = spans.narrow(0, 0, 2), tail = spans.narrow(0, 2, 4);
  const at::Tensor head_maxima = nf4_pack_codes(values.narrow(0, 0, cut), head);
  const at::Tensor tail_maxima = nf4_pack_codes(values.narrow(0, cut, count - cut), tail);
  const at::Tensor offset = mean_of(at::cat({head_maxima, tail_maxima}));
  nf4_pack_maxima(head_maxima, offset, head);
  nf4_pack_maxima(tail_maxima, offset, tail);
  EXPECT_TRUE(spans.equal(packed(values)));
}

TEST(Nf4, ManySpansAreTheSpansOneByOne) {
  const int64_t count = 300 * kNf4SpanElements;  // more than are quantised at a time
  const at::Tensor values = at::randn({count}, at::kFloat), spans = packed(values);
  const at::Tensor back = nf4_expand(spans.view({-1}), count, at::kFloat);
  for (const int64_t span : {0, 255, 256, 299}) {
    const at::Tensor alone = nf4_expand(spans[span], kNf4SpanElements, at::kFloat);
    EXPECT_TRUE(back.narrow(0, span * kNf4SpanElements, kNf4SpanElements).equal(alone)) << span;
    const at::Tensor codes = spans_for(kNf4SpanElements);
    nf4_pack_codes(values.narrow(0, span * kNf4SpanElements, kNf4SpanElements), codes);
    EXPECT_TRUE(codes[0].narrow(0, 0, 8192).equal(spans[span].narrow(0, 0, 8192))) << span;
  }
}

TEST(Nf4, OtherDtypesAreRoundedFromFloat32) {
  const at::Tensor values = at::randn({1000}, at::kFloat), back = there_and_back(values);
  for (const auto dtype : {at::kBFloat16, at::kDouble})
    EXPECT_TRUE(there_and_back(values, dtype).equal(back.to(dtype)));
}

TEST(Nf4, MoreThanTheSpansHoldIsAnError) {
  EXPECT_ERROR(nf4_expand(at::zeros({kSpanBytes}, at::kByte), kNf4SpanElements + 1, at::kFloat), Error, "16385",
               "8464");
}

TEST(Nf4, TheMapOfMaximaAscendsAndIsSymmetric) {
  EXPECT_TRUE(std::ranges::is_sorted(kNf4Maxima));
  for (size_t k = 0; k < 127; ++k) EXPECT_EQ(kNf4Maxima[k], -kNf4Maxima[254 - k]);
  EXPECT_EQ(kNf4Maxima[127], 0.0f);
  EXPECT_FLOAT_EQ(kNf4Maxima[128], 0.55e-6f);
}

}  // namespace
}  // namespace rankwise::testing
