#include "trainer/model/gpu_low_rank.h"

#include <ATen/ATen.h>
#include <ATen/record_function.h>

#include <algorithm>

#include "base/check.h"
#include "base/shared_library.h"
#include "trainer/kernels/gpu_low_rank.h"
#include "trainer/model/gpu.h"

namespace rankwise {
namespace {

constexpr int64_t kMostRanks = kLowRankMostSlices * kLowRankFilled;

GpuLowRankSlice kernel_slice(const LowRankSlice& slice) {
  return {.begin = slice.out_begin,
          .columns = slice.columns,
          .rank_begin = slice.rank_begin,
          .rank = slice.rank,
          .right = slice.rank > 0 ? slice.b_OR.const_data_ptr() : nullptr,
          .scaling = static_cast<float>(slice.scaling),
          .grad_b_OR = slice.grad_b_OR.defined() ? slice.grad_b_OR.mutable_data_ptr<float>() : nullptr};
}

GpuLowRankAdd addition(const at::Tensor& out_NO, const at::Tensor& s_NR) {
  return {.out_NO = out_NO.mutable_data_ptr(),
          .starts_NO = {},
          .start_strides = {},
          .s_NR = s_NR.const_data_ptr(),
          .rows = out_NO.size(0),
          .columns = out_NO.size(1),
          .total_rank = s_NR.size(1),
          .right_is_a = false,
          .num_slices = 0,
          .slices = {}};
}

void start_from(GpuLowRankAdd& call, std::span<const at::Tensor> starts) {
  RW_CHECK(starts.size() <= std::size(call.starts_NO), Error, "low_rank_add: {} starts, two are known", starts.size());
  for (size_t k = 0; k < starts.size(); ++k) {
    call.starts_NO[k] = starts[k].const_data_ptr();
    call.start_strides[k] = starts[k].dim() == 2 ? starts[k].stride(0) : 0;
  }
}

void add(const GpuLowRankAdd& call) {
  static auto* const kernel = cuda_library_function<decltype(rankwise_low_rank_add)>("rankwise_low_rank_add");
  launch(kernel, call);
}

}  // namespace

bool device_has_low_rank_kernels() {
  static const bool has =
      cuda_library_function<decltype(rankwise_low_rank_fits_device)>("rankwise_low_rank_fits_device")();
  return has;
}

bool fits_low_rank(std::span<const LowRankSlice> slices, const at::Tensor& a_RI) {
  return a_RI.is_cuda() && a_RI.scalar_type() == at::kBFloat16 && a_RI.size(0) <= kMostRanks &&
         a_RI.size(1) % kLowRankWidthStep == 0 && slices.size() <= kLowRankMostSlices &&
         std::ranges::all_of(slices,
                             [](const LowRankSlice& slice) {
                               return (slice.rank == 0 || fits_low_rank_kernels(slice.rank)) &&
                                      slice.columns % kLowRankWidthStep == 0;
                             }) &&
         device_has_low_rank_kernels();
}

void low_rank_add(const at::Tensor& out_NO, std::span<const at::Tensor> starts, const at::Tensor& s_NR,
                  std::span<const LowRankSlice> slices) {
  RECORD_FUNCTION("rankwise::low_rank_add", {});
  GpuLowRankAdd call = addition(out_NO, s_NR);
  start_from(call, starts);
  for (const auto& slice : slices) call.slices[call.num_slices++] = kernel_slice(slice);
  add(call);
}

void low_rank_add_a(const at::Tensor& out_NI, const at::Tensor& start_NI, const at::Tensor& ds_NR,
                    const at::Tensor& a_RI) {
  RECORD_FUNCTION("rankwise::low_rank_add", {});
  GpuLowRankAdd call = addition(out_NI, ds_NR);
  call.right_is_a = true;
  if (start_NI.defined()) start_from(call, {&start_NI, 1});
  for (int64_t begin = 0; begin < a_RI.size(0); begin += kLowRankFilled) {
    call.slices[call.num_slices++] = {.begin = 0,
                                      .columns = a_RI.size(1),
                                      .rank_begin = begin,
                                      .rank = std::min(kLowRankFilled, a_RI.size(0) - begin),
                                      .right = a_RI.narrow(0, begin, 1).const_data_ptr(),
                                      .scaling = 1.0f,
                                      .grad_b_OR = nullptr};
  }
  add(call);
}

at::Tensor low_rank_gradient(const at::Tensor& dy_NO, const at::Tensor& s_NR, std::span<const LowRankSlice> slices) {
  RECORD_FUNCTION("rankwise::low_rank_gradient", {});
  static auto* const kernel = cuda_library_function<decltype(rankwise_low_rank_gradient)>("rankwise_low_rank_gradient");
  static auto* const scratch_bytes = cuda_library_function<decltype(rankwise_low_rank_gradient_scratch_bytes)>(
      "rankwise_low_rank_gradient_scratch_bytes");
  at::Tensor ds_NR = at::empty_like(s_NR);
  GpuLowRankGradient call{.dy_NO = dy_NO.const_data_ptr(),
                          .s_NR = s_NR.const_data_ptr(),
                          .ds_NR = ds_NR.mutable_data_ptr(),
                          .rows = dy_NO.size(0),
                          .columns = dy_NO.size(1),
                          .total_rank = s_NR.size(1),
                          .num_slices = 0,
                          .slices = {},
                          .scratch = nullptr};
  for (const auto& slice : slices) {
    if (slice.rank > 0) call.slices[call.num_slices++] = kernel_slice(slice);
  }
  const at::Tensor scratch = at::empty({scratch_bytes(&call)}, dy_NO.options().dtype(at::kByte));
  call.scratch = static_cast<float*>(scratch.mutable_data_ptr());
  launch(kernel, call);
  return ds_NR;
}

}  // namespace rankwise
