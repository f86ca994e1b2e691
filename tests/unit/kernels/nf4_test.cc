// On a GPU: packed there and expanded by the kernel, beside the same on the CPU. Equal in every bit.
#include "trainer/kernels/nf4.h"

#include <gtest/gtest.h>

#include "base/shared_library.h"
#include "tests/support/gpu_test.h"
#include "trainer/weights/nf4.h"

namespace rankwise::testing {
namespace {

class GpuNf4 : public GpuTest {
 protected:
  static at::Tensor packed(const at::Tensor& values) {
    const int64_t spans = (values.numel() + kNf4SpanElements - 1) / kNf4SpanElements;
    const at::Tensor bytes = at::zeros({spans, sizeof(Nf4Span)}, values.options().dtype(at::kByte));
    const at::Tensor maxima = nf4_pack_codes(values, bytes);
    nf4_pack_maxima(maxima, maxima.cpu().mean(at::kDouble).to(at::kFloat).to(values.device()), bytes);
    return bytes;
  }
};

// Ends of a matrix that are no whole block, span, or round of a kernel's threads; zeros; several chunks.
const int64_t kCounts[] = {1, 63, 64, 4096, 16'384, 16'392, 40'000, 300 * kNf4SpanElements + 2056};

TEST_F(GpuNf4, PacksTheSameBytes) {
  for (const int64_t count : kCounts) {
    const at::Tensor values = at::randn({count}, at::kFloat);
    values.narrow(0, 0, count / 3).zero_();
    EXPECT_TRUE(packed(values.cuda()).cpu().equal(packed(values))) << count;
  }
}

TEST_F(GpuNf4, ExpandsToTheSameNumbers) {
  for (const int64_t count : kCounts) {
    const at::Tensor bytes = packed(at::randn({count}, at::kFloat)).view({-1});
    const at::Tensor bytes_gpu = bytes.cuda();
    for (const auto dtype : {at::kFloat, at::kBFloat16, at::kDouble}) {
      EXPECT_TRUE(nf4_expand(bytes_gpu, count, dtype).cpu().equal(nf4_expand(bytes, count, dtype)))
          << count << " " << c10::toString(dtype);
    }
  }
}

// A block of codes for each code, and every code of a maximum.
TEST_F(GpuNf4, KnowsEveryCode) {
  const at::Tensor bytes =
      at::arange(2 * static_cast<int64_t>(sizeof(Nf4Span)), at::kLong).remainder_(256).to(at::kByte);
  const at::Tensor floats = bytes.view({2, -1}).narrow(1, 8448, 8).view(at::kFloat);
  floats.copy_(at::tensor({0.75f, 1.25f, 0.03f, 0.1f}).view({2, 2}));
  const int64_t count = 2 * kNf4SpanElements;
  EXPECT_TRUE(nf4_expand(bytes.cuda(), count, at::kFloat).cpu().equal(nf4_expand(bytes, count, at::kFloat)));
}

TEST_F(GpuNf4, WritesNothingBehindTheEnd) {
  constexpr int64_t kCount = 16'384 + 64;
  const at::Tensor bytes = packed(at::randn({kCount}, at::kFloat)).cuda();
  const at::Tensor out = at::full({2 * kNf4SpanElements}, 7.0, at::kFloat).cuda();
  const GpuNf4Expansion call{GpuType::kFloat32, static_cast<const Nf4Span*>(bytes.const_data_ptr()), out.data_ptr(),
                             kCount};
  ASSERT_EQ(cuda_library_function<decltype(rankwise_expand_nf4)>("rankwise_expand_nf4")(&call, nullptr), 0);
  EXPECT_TRUE(out.narrow(0, kCount, out.numel() - kCount).eq(7.0).all().item<bool>());
}

TEST_F(GpuNf4, NothingIsNoError) {
  const GpuNf4Expansion call{};
  EXPECT_EQ(cuda_library_function<decltype(rankwise_expand_nf4)>("rankwise_expand_nf4")(&call, nullptr), 0);
}

}  // namespace
}  // namespace rankwise::testing
