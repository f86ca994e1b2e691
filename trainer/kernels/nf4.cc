#include "trainer/kernels/nf4.h"

#include <algorithm>

namespace rankwise {
namespace {

// Both elements of a byte.
constexpr auto kPairs = [] {
  std::array<std::array<float, 2>, 256> pairs{};
  for (size_t byte = 0; byte < pairs.size(); ++byte) pairs[byte] = {kNf4Values[byte >> 4], kNf4Values[byte & 15]};
  return pairs;
}();

void expand_block(const uint8_t* codes, float maximum, int64_t count, float* out) {
  for (int64_t i = 0; i + 1 < count; i += 2) {
    const auto& [first, second] = kPairs[codes[i / 2]];
    out[i] = first * maximum;
    out[i + 1] = second * maximum;
  }
  if (count % 2 == 1) out[count - 1] = kPairs[codes[count / 2]][0] * maximum;
}

}  // namespace

void expand_nf4(const Nf4Span* spans, int64_t count, float* out) {
  const int64_t num_blocks = (count + kNf4Block - 1) / kNf4Block;
#pragma omp parallel for
  for (int64_t block = 0; block < num_blocks; ++block) {
    const Nf4Span& span = spans[block / kNf4BlocksOfSpan];
    const int64_t place = block % kNf4BlocksOfSpan, first = block * kNf4Block;
    expand_block(span.codes + place * (kNf4Block / 2), kNf4Maxima[span.maxima[place]] * span.scale + span.offset,
                 std::min(kNf4Block, count - first), out + first);
  }
}

}  // namespace rankwise
