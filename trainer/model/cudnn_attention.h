// Attention by cuDNN (trainer/kernels/gpu_attention.h) on tensors. Private to gpu_attention.cc; attention.h has the
// meaning of everything here.
#pragma once

#include "trainer/kernels/gpu_attention.h"
#include "trainer/model/attention.h"

namespace rankwise {

// Null where cuDNN does not serve this: other types than bfloat16, shapes and devices that it refuses. The first call
// for a kind of batch compiles a plan, up to a second; kinds are few. Throws Error where cuDNN does not start.
const GpuAttentionPlan* cudnn_attention_plan(const at::Tensor& qkv_NE, const SampleLayout& samples,
                                             const AttentionShape& shape, bool with_backward);

at::Tensor cudnn_attention_forward(const GpuAttentionPlan& plan, const at::Tensor& qkv_NE, const SampleLayout& samples,
                                   const AttentionShape& shape, AttentionSaved* saved);
at::Tensor cudnn_attention_backward(const GpuAttentionPlan& plan, const at::Tensor& dout_NF, const at::Tensor& qkv_NE,
                                    const at::Tensor& out_NF, const AttentionSaved& saved, const SampleLayout& samples,
                                    const AttentionShape& shape);

}  // namespace rankwise
