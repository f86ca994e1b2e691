#include "trainer/weights/nf4.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <span>

#include "base/check.h"
#include "base/round_up.h"
#include "base/shared_library.h"
#include "trainer/kernels/nf4.h"

namespace rankwise {
namespace {

constexpr int64_t kSpanBytes = sizeof(Nf4Span);
constexpr int64_t kCodeBytes = sizeof(Nf4Span::codes);
constexpr int64_t kChunkSpans = 256;  // quantised at a time, for the sake of what is held meanwhile

at::Tensor padded(const at::Tensor& flat, int64_t multiple) {
  return at::constant_pad_nd(flat, {0, round_up(flat.numel(), multiple) - flat.numel()});
}

// The index of the nearest entry of an ascending table for each of values / scale, the lower one of two equally near.
at::Tensor nearest(const at::Tensor& values_NM, const at::Tensor& scale_N, std::span<const float> table) {
  const at::Tensor entries = at::tensor(at::ArrayRef<float>(table.data(), table.size())).to(values_NM.device());
  const int64_t last = entries.numel() - 1;
  const at::Tensor middles = entries.narrow(0, 0, last).add(entries.narrow(0, 1, last)).div_(2);
  const at::Tensor inverse_N1 = scale_N.clamp_min(1e-38).reciprocal_().unsqueeze(1);
  return at::bucketize(values_NM.mul(inverse_N1).clamp_(-1, 1), middles, /*out_int32=*/true).to(at::kByte);
}

// Of some spans; returns all of their maxima.
at::Tensor pack_chunk(const at::Tensor& values, const at::Tensor& spans_SB) {
  const at::Tensor values_NM = padded(values, kNf4SpanElements).view({-1, kNf4Block});
  const at::Tensor maxima_N = values_NM.abs().amax(1);
  const at::Tensor pairs = nearest(values_NM, maxima_N, kNf4Values).view({spans_SB.size(0), kCodeBytes, 2});
  spans_SB.narrow(1, 0, kCodeBytes).copy_(pairs.select(2, 0).mul(16).add_(pairs.select(2, 1)));
  return maxima_N;
}

void expand_on_gpu(const at::Tensor& spans, const at::Tensor& out) {
  static auto* const expand = cuda_library_function<decltype(rankwise_expand_nf4)>("rankwise_expand_nf4");
  const GpuNf4Expansion call{out.scalar_type() == at::kBFloat16 ? GpuType::kBFloat16 : GpuType::kFloat32,
                             static_cast<const Nf4Span*>(spans.const_data_ptr()), out.mutable_data_ptr(), out.numel()};
  const int code = expand(&call, gpu_row_kernels().current_stream());
  RW_CHECK(code == 0, Error, "rankwise_expand_nf4 could not be started: error {} of the CUDA runtime", code);
}

}  // namespace

at::Tensor nf4_pack_codes(const at::Tensor& values, const at::Tensor& spans_SB) {
  const int64_t count = values.numel();
  std::vector<at::Tensor> maxima;
  for (int64_t span = 0; span * kNf4SpanElements < count; span += kChunkSpans) {
    const int64_t begin = span * kNf4SpanElements, elements = std::min(kChunkSpans * kNf4SpanElements, count - begin);
    const int64_t spans = round_up(elements, kNf4SpanElements) / kNf4SpanElements;
    maxima.push_back(pack_chunk(values.narrow(0, begin, elements), spans_SB.narrow(0, span, spans)));
  }
  return at::cat(maxima).narrow(0, 0, round_up(count, kNf4Block) / kNf4Block);
}

void nf4_pack_maxima(const at::Tensor& maxima, const at::Tensor& offset, const at::Tensor& spans_SB) {
  const at::Tensor centred_SM = padded(maxima.sub(offset), kNf4BlocksOfSpan).view({-1, kNf4BlocksOfSpan});
  const at::Tensor scale_S = centred_SM.abs().amax(1);
  spans_SB.narrow(1, kCodeBytes, kNf4BlocksOfSpan).copy_(nearest(centred_SM, scale_S, kNf4Maxima));
  const at::Tensor floats_S2 = spans_SB.narrow(1, kCodeBytes + kNf4BlocksOfSpan, 8).view(at::kFloat);
  floats_S2.select(1, 0).copy_(scale_S);
  floats_S2.select(1, 1).copy_(offset);
}

at::Tensor nf4_expand(const at::Tensor& spans, int64_t count, at::ScalarType dtype) {
  RW_CHECK(count <= spans.numel() / kSpanBytes * kNf4SpanElements, Error, "{} elements of {} bytes of nf4", count,
           spans.numel());
  const bool here = spans.is_cpu();
  const auto made = !here && dtype == at::kBFloat16 ? dtype : at::kFloat;
  const at::Tensor out = at::empty({round_up(count, kNf4Block)}, spans.options().dtype(made));
  if (here) {
    expand_nf4(static_cast<const Nf4Span*>(spans.const_data_ptr()), count, out.mutable_data_ptr<float>());
  } else {
    expand_on_gpu(spans, out);
  }
  return out.narrow(0, 0, count).to(dtype);
}

}  // namespace rankwise
