#include "trainer/model/cudnn_attention.h"

#include <ATen/ATen.h>

#include "base/check.h"
#include "base/shared_library.h"
#include "trainer/kernels/gpu_rows.h"
#include "trainer/model/gpu.h"

namespace rankwise {
namespace {

struct Library {
  decltype(rankwise_attention_plan)* plan;
  decltype(rankwise_attention_forward)* forward;
  decltype(rankwise_attention_backward)* backward;
  decltype(rankwise_attention_failure)* failure;
};

const Library& library() {
  static const Library library = {
      cuda_library_function<decltype(rankwise_attention_plan)>("rankwise_attention_plan"),
      cuda_library_function<decltype(rankwise_attention_forward)>("rankwise_attention_forward"),
      cuda_library_function<decltype(rankwise_attention_backward)>("rankwise_attention_backward"),
      cuda_library_function<decltype(rankwise_attention_failure)>("rankwise_attention_failure")};
  return library;
}

template <typename Call>
void run(int (*function)(const Call*, void*), const Call& call) {
  const int code = function(&call, gpu_row_kernels().current_stream());
  RW_CHECK(code == 0, Error, "cuDNN's attention failed: {}", library().failure());
}

GpuAttentionShape plan_shape(const SampleLayout& samples, const AttentionShape& shape) {
  const bool packed = samples.packed.has_value();
  const int64_t window = shape.sliding_window.value_or(0);
  return {.heads = shape.num_heads,
          .kv_heads = shape.num_kv_heads,
          .head_dim = shape.head_dim,
          .window = window < samples.longest() ? window : 0,
          .samples = packed ? samples.packed->samples : samples.count(),
          .longest = packed ? samples.packed->longest : samples.longest(),
          .rows = packed ? samples.packed->rows : samples.starts.back(),
          .packed = packed,
          .deterministic = at::globalContext().deterministicAlgorithms()};
}

GpuSampleOffsets offsets_of(const SampleLayout& samples) {
  if (!samples.packed) return {};
  const auto of = [](const at::Tensor& numbers) { return numbers.const_data_ptr<int32_t>(); };
  const PackedSamples& packed = *samples.packed;
  return {of(packed.lengths_S), of(packed.first_E), of(packed.first_F), of(packed.first_KD), of(packed.first_H)};
}

at::Tensor workspace_of(int64_t bytes, const at::Tensor& beside) {
  return at::empty({bytes}, beside.options().dtype(at::kByte));
}

// Gradients of keys and values, beside each other in rows of dqkv or in two matrices of their own.
struct KvGradients {
  at::Tensor dk, dv;
};

KvGradients kv_gradients(const at::Tensor& dqkv_NE, const AttentionShape& shape, bool separate) {
  if (!separate) {
    const QkvViews parts = split_qkv(dqkv_NE, shape);
    return {parts.k_NKD, parts.v_NKD};
  }
  const at::Tensor both = at::empty({2, dqkv_NE.size(0), shape.num_kv_heads, shape.head_dim}, dqkv_NE.options());
  return {both[0], both[1]};
}

}  // namespace

const GpuAttentionPlan* cudnn_attention_plan(const at::Tensor& qkv_NE, const SampleLayout& samples,
                                             const AttentionShape& shape, bool with_backward) {
  if (qkv_NE.scalar_type() != at::kBFloat16 || !qkv_NE.is_contiguous()) return nullptr;
  if (!samples.packed && !samples.dense()) return nullptr;
  const GpuAttentionShape wanted = plan_shape(samples, shape);
  const GpuAttentionPlan* plan = library().plan(&wanted, with_backward);
  RW_CHECK(plan != nullptr, Error, "cuDNN does not start: {}", library().failure());
  return plan->refusal == nullptr ? plan : nullptr;
}

at::Tensor cudnn_attention_forward(const GpuAttentionPlan& plan, const at::Tensor& qkv_NE, const SampleLayout& samples,
                                   const AttentionShape& shape, AttentionSaved* saved) {
  const int64_t rows = qkv_NE.size(0), heads = shape.num_heads;
  at::Tensor out_NF = at::empty({rows, heads * shape.head_dim}, qkv_NE.options());
  const at::Tensor logsumexp = at::empty({rows * heads}, qkv_NE.options().dtype(at::kFloat));
  const at::Tensor workspace = workspace_of(plan.forward_workspace_bytes, qkv_NE);
  run(library().forward, GpuAttentionForward{.plan = &plan,
                                             .offsets = offsets_of(samples),
                                             .qkv_NE = qkv_NE.const_data_ptr(),
                                             .out_NF = out_NF.mutable_data_ptr(),
                                             .logsumexp = logsumexp.mutable_data_ptr<float>(),
                                             .workspace = workspace.mutable_data_ptr()});
  if (saved != nullptr) *saved = {.logsumexp = logsumexp, .by_cudnn = true};
  return out_NF;
}

at::Tensor cudnn_attention_backward(const GpuAttentionPlan& plan, const at::Tensor& dout_NF, const at::Tensor& qkv_NE,
                                    const at::Tensor& out_NF, const AttentionSaved& saved, const SampleLayout& samples,
                                    const AttentionShape& shape) {
  at::Tensor dqkv_NE = at::empty_like(qkv_NE);
  const bool separate = plan_shape(samples, shape).separate_kv_gradients();
  const KvGradients kv = kv_gradients(dqkv_NE, shape, separate);
  const at::Tensor dout = dout_NF.contiguous(), workspace = workspace_of(plan.backward_workspace_bytes, qkv_NE);
  run(library().backward, GpuAttentionBackward{.plan = &plan,
                                               .offsets = offsets_of(samples),
                                               .dout_NF = dout.const_data_ptr(),
                                               .qkv_NE = qkv_NE.const_data_ptr(),
                                               .out_NF = out_NF.const_data_ptr(),
                                               .logsumexp = saved.logsumexp.const_data_ptr<float>(),
                                               .dq = dqkv_NE.mutable_data_ptr(),
                                               .dk = kv.dk.mutable_data_ptr(),
                                               .dv = kv.dv.mutable_data_ptr(),
                                               .workspace = workspace.mutable_data_ptr()});
  if (separate) {
    const QkvViews parts = split_qkv(dqkv_NE, shape);
    parts.k_NKD.copy_(kv.dk);
    parts.v_NKD.copy_(kv.dv);
  }
  return dqkv_NE;
}

}  // namespace rankwise
