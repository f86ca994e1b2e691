#include "trainer/kernels/gpu_rows.h"

#include "base/shared_library.h"

namespace rankwise {
namespace {

template <typename Function>
void find(Function*& function, const char* symbol) {
  function = cuda_library_function<Function>(symbol);
}

GpuRowKernels load() {
  GpuRowKernels kernels;
  find(kernels.current_stream, "rankwise_current_stream");
  find(kernels.rms_norm, "rankwise_rms_norm");
  find(kernels.rms_norm_backward, "rankwise_rms_norm_backward");
  find(kernels.head_norm, "rankwise_head_norm");
  find(kernels.head_norm_backward, "rankwise_head_norm_backward");
  find(kernels.rope, "rankwise_rope");
  find(kernels.swiglu, "rankwise_swiglu");
  find(kernels.swiglu_backward, "rankwise_swiglu_backward");
  find(kernels.cross_entropy, "rankwise_cross_entropy");
  find(kernels.dropout_row_keys, "rankwise_dropout_row_keys");
  find(kernels.dropout_mask, "rankwise_dropout_mask");
  return kernels;
}

}  // namespace

const GpuRowKernels& gpu_row_kernels() {
  static const GpuRowKernels kernels = load();
  return kernels;
}

}  // namespace rankwise
