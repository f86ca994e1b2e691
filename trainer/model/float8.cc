#include "trainer/model/float8.h"

#include <ATen/ATen.h>
#include <ATen/record_function.h>

#include "base/shared_library.h"
#include "trainer/kernels/float8.h"
#include "trainer/model/gpu.h"
#include "trainer/model/gpu_gemm.h"

namespace rankwise {
namespace {

at::Tensor transposed_bytes(const at::Tensor& codes_OI) {
  static auto* const transpose = cuda_library_function<decltype(rankwise_transpose_bytes)>("rankwise_transpose_bytes");
  const at::Tensor turned_IO = at::empty({codes_OI.size(1), codes_OI.size(0)}, codes_OI.options());
  launch(transpose,
         GpuByteTranspose{codes_OI.const_data_ptr(), turned_IO.mutable_data_ptr(), codes_OI.size(0), codes_OI.size(1)});
  return turned_IO;
}

// start (where defined) + left [N, K] times the transpose of right [M, K]: the one order in which Hopper multiplies
// float8.
void multiply(at::Tensor& out_NM, const at::Tensor& start_NM, const Float8Rows& left, const at::Tensor& right_MK,
              const at::Tensor& right_scales_M) {
  const at::Tensor right_KM = right_MK.view(at::kFloat8_e4m3fn).t();
  if (multiply_large(out_NM, start_NM, left.codes_NC, right_KM, {left.scales_N1, right_scales_M})) return;
  const at::Tensor product_NM =
      at::_scaled_mm(left.codes_NC, right_KM, left.scales_N1, right_scales_M.unsqueeze(0),
                     /*bias=*/{}, /*scale_result=*/{}, at::kBFloat16, /*use_fast_accum=*/true);
  start_NM.defined() ? at::add_out(out_NM, start_NM, product_NM) : out_NM.copy_(product_NM);
}

}  // namespace

Float8Rows float8_rows(const at::Tensor& x_NC, const at::Tensor& factors_C) {
  static auto* const quantise = cuda_library_function<decltype(rankwise_float8_rows)>("rankwise_float8_rows");
  const int64_t rows = x_NC.size(0), columns = x_NC.size(1);
  const at::Tensor codes_NC = at::empty({rows, columns}, x_NC.options().dtype(at::kFloat8_e4m3fn));
  const at::Tensor scales_N1 = at::empty({rows, 1}, x_NC.options().dtype(at::kFloat));
  launch(quantise, GpuFloat8Rows{.type = gpu_type(x_NC),
                                 .x_NC = x_NC.const_data_ptr(),
                                 .factors_C = factors_C.defined() ? factors_C.const_data_ptr<float>() : nullptr,
                                 .codes_NC = codes_NC.mutable_data_ptr(),
                                 .scales_N = scales_N1.mutable_data_ptr<float>(),
                                 .rows = rows,
                                 .columns = columns,
                                 .stride = x_NC.stride(0)});
  return {codes_NC, scales_N1};
}

void float8_product(at::Tensor out_NO, const at::Tensor& start_NO, const Float8Rows& x_NI, const Float8Weight& weight) {
  RECORD_FUNCTION("rankwise::float8_product", {});
  multiply(out_NO, start_NO, x_NI, weight.codes_OI, weight.scales_O);
}

void float8_product_transposed(at::Tensor out_NI, const at::Tensor& start_NI, const at::Tensor& dy_NO,
                               const Float8Weight& weight) {
  RECORD_FUNCTION("rankwise::float8_product_transposed", {});
  const at::Tensor turned_IO = transposed_bytes(weight.codes_OI);
  const at::Tensor ones_I = at::ones({turned_IO.size(0)}, weight.scales_O.options());
  multiply(out_NI, start_NI, float8_rows(dy_NO, weight.scales_O), turned_IO, ones_I);
}

}  // namespace rankwise
