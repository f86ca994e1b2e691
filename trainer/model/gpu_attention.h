// Attention on CUDA devices: by cuDNN where it serves the batch, else by LibTorch's FlashAttention, which takes twice
// as long. Private to attention.cc, which has the meaning of everything here.
#pragma once

#include "trainer/model/attention.h"

namespace rankwise {

// 16-bit values on a CUDA device, heads of a size that the kernels know.
bool fits_gpu_attention(const at::Tensor& qkv_NE, const AttentionShape& shape);

// "cuDNN" or "FlashAttention": whoever serves rows of this dtype.
const char* gpu_attention_name(const at::Tensor& qkv_NE, const SampleLayout& samples, const AttentionShape& shape);

at::Tensor gpu_attention_forward(const at::Tensor& qkv_NE, const SampleLayout& samples, const AttentionShape& shape,
                                 AttentionSaved* saved);
at::Tensor gpu_attention_backward(const at::Tensor& dout_NF, const at::Tensor& qkv_NE, const at::Tensor& out_NF,
                                  const AttentionSaved& saved, const SampleLayout& samples,
                                  const AttentionShape& shape);

}  // namespace rankwise
