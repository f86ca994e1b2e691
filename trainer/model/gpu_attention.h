// Attention on CUDA devices by LibTorch's kernels: cuDNN's where all samples of the batch are equally long, which it is
// twice as quick at, and FlashAttention's for samples of any length, for sliding windows and where equal runs are to
// give equal bits. Private to attention.cc, which has the meaning of everything here.
#pragma once

#include "trainer/model/attention.h"

namespace rankwise {

// 16-bit values on a CUDA device, heads of a size that the kernels know.
bool fits_gpu_attention(const at::Tensor& qkv_NE, const AttentionShape& shape);

at::Tensor gpu_attention_forward(const at::Tensor& qkv_NE, const SampleLayout& samples, const AttentionShape& shape,
                                 AttentionSaved* saved);
at::Tensor gpu_attention_backward(const at::Tensor& dout_NF, const at::Tensor& qkv_NE, const at::Tensor& out_NF,
                                  const AttentionSaved& saved, const SampleLayout& samples,
                                  const AttentionShape& shape);

}  // namespace rankwise
