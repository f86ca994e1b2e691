#include <cuda_runtime_api.h>
#include <cudnn_frontend.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <unordered_map>

// This file is compiled with hidden symbols (CMakeLists.txt): LibTorch holds cuDNN's frontend in another version.
#pragma GCC visibility push(default)
#include "trainer/kernels/gpu_attention.h"
#pragma GCC visibility pop

namespace fe = cudnn_frontend;

namespace rankwise {
namespace {

using Graph = fe::graph::Graph;
using Attributes = fe::graph::Tensor_attributes;
using Tensor = std::shared_ptr<Attributes>;
using Pointers = std::unordered_map<int64_t, void*>;

// Names of a graph's tensors. Lengths and offsets of queries, keys and values are the same arrays under three names:
// engines are found by how a graph looks, and each is known to take three.
enum Name : int64_t {
  kQ = 1,
  kK,
  kV,
  kOut,
  kLogsumexp,
  kDout,
  kDq,
  kDk,
  kDv,
  kQueryLengths,
  kKeyLengths,
  kQOffsets,
  kKOffsets,
  kVOffsets,
  kOutOffsets,
  kLogsumexpOffsets,
  kDkOffsets,
  kDvOffsets
};

void check(fe::error_t error) {
  if (error.is_bad()) throw std::runtime_error(error.get_message());
}

void check(cudnnStatus_t status) {
  if (status != CUDNN_STATUS_SUCCESS) throw std::runtime_error(cudnnGetErrorString(status));
}

struct Plan : GpuAttentionPlan {
  GpuAttentionShape shape;
  cudnnHandle_t handle;  // not owned
  std::string reason;
  Graph forward, backward;
  bool has_backward;  // compiled
};

// ---- the two graphs ----

// What is beside each other in one row.
struct Widths {
  int64_t e, f, kd;
  explicit Widths(const GpuAttentionShape& s)
      : e((s.heads + 2 * s.kv_heads) * s.head_dim), f(s.heads * s.head_dim), kd(s.kv_heads * s.head_dim) {}
};

Tensor integers(Graph& graph, Name name, int64_t count) {
  return graph.tensor(Attributes()
                          .set_uid(name)
                          .set_dim({count, 1, 1, 1})
                          .set_stride({1, 1, 1, 1})
                          .set_data_type(fe::DataType_t::INT32));
}

Tensor offsets(Graph& graph, const GpuAttentionShape& shape, Name name) {
  return shape.packed ? integers(graph, name, shape.samples + 1) : nullptr;
}

// [S, heads, T, D] inside rows of `width` elements.
void lay_out(Attributes& tensor, const GpuAttentionShape& shape, Name name, int64_t heads, int64_t width,
             const Tensor& ragged) {
  tensor.set_uid(name)
      .set_dim({shape.samples, heads, shape.longest, shape.head_dim})
      .set_stride({shape.longest * width, shape.head_dim, width, 1});
  if (ragged) tensor.set_ragged_offset(ragged);
}

void lay_out_logsumexp(Attributes& tensor, const GpuAttentionShape& shape, const Tensor& ragged) {
  const int64_t heads = shape.heads, longest = shape.longest;
  tensor.set_uid(kLogsumexp).set_dim({shape.samples, heads, longest, 1}).set_data_type(fe::DataType_t::FLOAT);
  if (ragged) {
    tensor.set_stride({longest * heads, 1, heads, 1}).set_ragged_offset(ragged);
  } else {
    tensor.set_stride({heads * longest, longest, 1, 1});
  }
}

Tensor input(Graph& graph, const GpuAttentionShape& shape, Name name, int64_t heads, int64_t width, Name ragged) {
  Attributes tensor;
  lay_out(tensor, shape, name, heads, width, offsets(graph, shape, ragged));
  return graph.tensor(tensor);
}

void output(const Tensor& tensor, const GpuAttentionShape& shape, Name name, int64_t heads, int64_t width,
            const Tensor& ragged) {
  lay_out(*tensor, shape, name, heads, width, ragged);
  tensor->set_output(true);
}

struct Qkv {
  Tensor q, k, v;
};

Qkv qkv_inputs(Graph& graph, const GpuAttentionShape& shape) {
  const int64_t e = Widths(shape).e;
  return {input(graph, shape, kQ, shape.heads, e, kQOffsets), input(graph, shape, kK, shape.kv_heads, e, kKOffsets),
          input(graph, shape, kV, shape.kv_heads, e, kVOffsets)};
}

// Who sees whom, in the words of either direction.
template <typename Options>
void set_sight(Graph& graph, Options& options, const GpuAttentionShape& shape) {
  options.set_attn_scale(1.0f / std::sqrt(static_cast<float>(shape.head_dim)))
      .set_diagonal_alignment(fe::DiagonalAlignment_t::TOP_LEFT)
      .set_diagonal_band_right_bound(0);
  if (shape.window > 0) options.set_diagonal_band_left_bound(static_cast<int>(shape.window));
  if (!shape.packed) return;
  options.set_padding_mask(true)
      .set_seq_len_q(integers(graph, kQueryLengths, shape.samples))
      .set_seq_len_kv(integers(graph, kKeyLengths, shape.samples));
}

void set_types(Graph& graph) {
  graph.set_io_data_type(fe::DataType_t::BFLOAT16)
      .set_intermediate_data_type(fe::DataType_t::FLOAT)
      .set_compute_data_type(fe::DataType_t::FLOAT);
}

void draw_forward(Graph& graph, const GpuAttentionShape& shape) {
  set_types(graph);
  fe::graph::SDPA_attributes options;
  options.set_generate_stats(true);
  set_sight(graph, options, shape);
  const Qkv in = qkv_inputs(graph, shape);
  const auto [out, logsumexp] = graph.sdpa(in.q, in.k, in.v, options);
  output(out, shape, kOut, shape.heads, Widths(shape).f, offsets(graph, shape, kOutOffsets));
  lay_out_logsumexp(*logsumexp, shape, offsets(graph, shape, kLogsumexpOffsets));
  logsumexp->set_output(true);
}

void draw_backward(Graph& graph, const GpuAttentionShape& shape) {
  set_types(graph);
  const Widths width(shape);
  fe::graph::SDPA_backward_attributes options;
  options.set_deterministic_algorithm(shape.deterministic);
  if (shape.packed) options.set_max_total_seq_len_q(shape.rows).set_max_total_seq_len_kv(shape.rows);
  set_sight(graph, options, shape);
  const Qkv in = qkv_inputs(graph, shape);
  const Tensor out = input(graph, shape, kOut, shape.heads, width.f, kOutOffsets);
  Attributes dout = *out, logsumexp;
  dout.set_uid(kDout);  // with the offsets of out
  lay_out_logsumexp(logsumexp, shape, offsets(graph, shape, kLogsumexpOffsets));
  const auto [dq, dk, dv] =
      graph.sdpa_backward(in.q, in.k, in.v, out, graph.tensor(dout), graph.tensor(logsumexp), options);
  output(dq, shape, kDq, shape.heads, width.e, in.q->get_ragged_offset());
  if (shape.separate_kv_gradients()) {
    output(dk, shape, kDk, shape.kv_heads, width.kd, offsets(graph, shape, kDkOffsets));
    output(dv, shape, kDv, shape.kv_heads, width.kd, offsets(graph, shape, kDvOffsets));
  } else {
    output(dk, shape, kDk, shape.kv_heads, width.e, in.k->get_ragged_offset());
    output(dv, shape, kDv, shape.kv_heads, width.e, in.v->get_ragged_offset());
  }
}

// ---- plans ----

// cuDNN's deterministic backward may keep all scores; FlashAttention's does not.
int64_t largest_workspace_bytes(const GpuAttentionShape& shape) {
  return std::max(int64_t{256} << 20, 16 * shape.rows * Widths(shape).e);
}

void find_engine(Graph& graph, cudnnHandle_t handle) {
  check(graph.validate());
  check(graph.build_operation_graph(handle));
  check(graph.create_execution_plans({fe::HeurMode_t::A}));
  check(graph.check_support(handle));
}

// Returns the bytes of its workspace.
int64_t compile(Graph& graph, const Plan& plan) {
  check(graph.build_plans(plan.handle));
  int64_t bytes = 0;
  check(graph.get_workspace_size(bytes));
  if (bytes > largest_workspace_bytes(plan.shape))
    throw std::runtime_error("its workspace of " + std::to_string(bytes) + " bytes is too large");
  return bytes;
}

template <typename Work>
void or_refuse(Plan& plan, const Work& work) {
  try {
    work();
  } catch (const std::exception& error) {
    plan.reason = error.what();
    plan.refusal = plan.reason.c_str();
  }
}

std::unique_ptr<Plan> make_plan(const GpuAttentionShape& shape, cudnnHandle_t handle) {
  auto plan = std::make_unique<Plan>();
  plan->shape = shape;
  plan->handle = handle;
  or_refuse(*plan, [&] {
    draw_forward(plan->forward, shape);
    draw_backward(plan->backward, shape);
    find_engine(plan->forward, handle);
    find_engine(plan->backward, handle);
    plan->forward_workspace_bytes = compile(plan->forward, *plan);
  });
  return plan;
}

void add_backward(Plan& plan) {
  if (plan.has_backward || plan.refusal != nullptr) return;
  or_refuse(plan, [&] { plan.backward_workspace_bytes = compile(plan.backward, plan); });
  plan.has_backward = true;
}

// One thread's view of one device.
struct Device {
  cudnnHandle_t handle = nullptr;
  std::map<GpuAttentionShape, std::unique_ptr<Plan>> plans;

  Device() { check(cudnnCreate(&handle)); }
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;
  ~Device() {
    plans.clear();
    cudnnDestroy(handle);
  }
};

thread_local std::string failure;

Device& current_device() {
  thread_local std::map<int, Device> devices;
  int device = 0;
  if (const cudaError_t code = cudaGetDevice(&device); code != cudaSuccess)
    throw std::runtime_error(cudaGetErrorString(code));
  return devices[device];
}

// ---- calls ----

void* unlocked(const void* pointer) { return const_cast<void*>(pointer); }  // cuDNN takes all pointers alike

void add_offsets(Pointers& pointers, const GpuAttentionShape& shape, const GpuSampleOffsets& offsets) {
  if (!shape.packed) return;
  for (const Name name : {kQueryLengths, kKeyLengths}) pointers[name] = unlocked(offsets.lengths_S);
  for (const Name name : {kQOffsets, kKOffsets, kVOffsets}) pointers[name] = unlocked(offsets.rows_E);
  pointers[kOutOffsets] = unlocked(offsets.rows_F);
  pointers[kLogsumexpOffsets] = unlocked(offsets.rows_H);
}

void add_qkv(Pointers& pointers, const GpuAttentionShape& shape, const void* qkv_NE) {
  constexpr int64_t kElementBytes = 2;
  const Widths width(shape);
  char* first = static_cast<char*>(unlocked(qkv_NE));
  pointers[kQ] = first;
  pointers[kK] = first + width.f * kElementBytes;
  pointers[kV] = first + (width.f + width.kd) * kElementBytes;
}

void run(const Plan& plan, const Graph& graph, Pointers& pointers, void* workspace, void* stream) {
  if (plan.refusal != nullptr) throw std::runtime_error(plan.reason);
  check(cudnnSetStream(plan.handle, static_cast<cudaStream_t>(stream)));
  check(graph.execute(plan.handle, pointers, workspace));
}

template <typename Work>
int guarded(const Work& work) {
  try {
    work();
    return 0;
  } catch (const std::exception& error) {
    failure = error.what();
    return 1;
  }
}

}  // namespace
}  // namespace rankwise

const rankwise::GpuAttentionPlan* rankwise_attention_plan(const rankwise::GpuAttentionShape* shape,
                                                          bool with_backward) {
  using namespace rankwise;
  const GpuAttentionPlan* found = nullptr;
  const int failed = guarded([&] {
    Device& device = current_device();
    auto& plan = device.plans[*shape];
    if (!plan) plan = make_plan(*shape, device.handle);
    if (with_backward) add_backward(*plan);
    found = plan.get();
  });
  return failed == 0 ? found : nullptr;
}

int rankwise_attention_forward(const rankwise::GpuAttentionForward* call, void* stream) {
  using namespace rankwise;
  return guarded([&] {
    const auto& plan = static_cast<const Plan&>(*call->plan);
    Pointers pointers = {{kOut, call->out_NF}, {kLogsumexp, call->logsumexp}};
    add_qkv(pointers, plan.shape, call->qkv_NE);
    add_offsets(pointers, plan.shape, call->offsets);
    run(plan, plan.forward, pointers, call->workspace, stream);
  });
}

int rankwise_attention_backward(const rankwise::GpuAttentionBackward* call, void* stream) {
  using namespace rankwise;
  return guarded([&] {
    const auto& plan = static_cast<const Plan&>(*call->plan);
    Pointers pointers = {{kOut, unlocked(call->out_NF)},
                         {kDout, unlocked(call->dout_NF)},
                         {kLogsumexp, unlocked(call->logsumexp)},
                         {kDq, call->dq},
                         {kDk, call->dk},
                         {kDv, call->dv}};
    add_qkv(pointers, plan.shape, call->qkv_NE);
    add_offsets(pointers, plan.shape, call->offsets);
    if (plan.shape.separate_kv_gradients())
      for (const Name name : {kDkOffsets, kDvOffsets}) pointers[name] = unlocked(call->offsets.rows_KD);
    run(plan, plan.backward, pointers, call->workspace, stream);
  });
}

const char* rankwise_attention_failure() { return rankwise::failure.c_str(); }
