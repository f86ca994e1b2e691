// Row operations whose numbers do not depend on their neighbours.
#include "base/counter_random.h"
#include "trainer/kernels/gpu_vectors.cuh"

namespace rankwise {
namespace {

constexpr int kMaxThreads = 512;

// kCount: 16 bytes, or a pair of numbers where half a head is no multiple of that.
template <typename T, int kCount>
__global__ void __launch_bounds__(kMaxThreads) rope(GpuRope call) {
  const int64_t row = blockIdx.x;
  const int half = static_cast<int>(call.head_dim / 2), half_pieces = half / kCount;
  const int count = static_cast<int>(call.heads) * half_pieces;
  const auto* cosines = pieces_of<kCount>(static_cast<const T*>(call.cos_ND) + row * half);
  const auto* sines = pieces_of<kCount>(static_cast<const T*>(call.sin_ND) + row * half);
  auto* heads = pieces_of<kCount>(static_cast<T*>(call.x_NHD) + row * call.stride);
  const float sign = call.inverse ? -1.0f : 1.0f;
  for (int i = thread(); i < count; i += threads()) {
    const int head = i / half_pieces, place = i % half_pieces;
    auto* first = heads + 2 * head * half_pieces + place;
    auto* second = first + half_pieces;
    const Piece<T, kCount> a = *first, b = *second, cosine = cosines[place], sine = sines[place];
    float turned_a[kCount], turned_b[kCount];
#pragma unroll
    for (int k = 0; k < kCount; ++k) {
      turned_a[k] = a[k] * cosine[k] - b[k] * sign * sine[k];
      turned_b[k] = b[k] * cosine[k] + a[k] * sign * sine[k];
    }
    *first = rounded<T>(turned_a);
    *second = rounded<T>(turned_b);
  }
}

__device__ float sigmoid(float x) { return __fdividef(1.0f, 1.0f + expf(-x)); }

template <typename T>
__global__ void __launch_bounds__(kMaxThreads) swiglu(GpuSwiglu call) {
  const int64_t row = blockIdx.x;
  const int count = static_cast<int>(call.width / kLanes<T>);
  const Piece<T>* gates = pieces(static_cast<const T*>(call.gate_up_NI2) + row * 2 * call.width);
  Piece<T>* h = pieces(static_cast<T*>(call.h_NI) + row * call.width);
  for (int i = thread(); i < count; i += threads()) {
    const Piece<T> gate = gates[i], up = gates[count + i];
    float product[kLanes<T>];
#pragma unroll
    for (int k = 0; k < kLanes<T>; ++k) product[k] = gate[k] * sigmoid(gate[k]) * up[k];
    h[i] = rounded<T>(product);
  }
}

template <typename T>
__global__ void __launch_bounds__(kMaxThreads) swiglu_backward(GpuSwigluBackward call) {
  const int64_t row = blockIdx.x;
  const int count = static_cast<int>(call.width / kLanes<T>);
  const Piece<T>* dh = pieces(static_cast<const T*>(call.dh_NI) + row * call.width);
  Piece<T>* gates = pieces(static_cast<T*>(call.gate_up_NI2) + row * 2 * call.width);
  for (int i = thread(); i < count; i += threads()) {
    const Piece<T> d = dh[i], gate = gates[i], up = gates[count + i];
    float dgate[kLanes<T>], dup[kLanes<T>];
#pragma unroll
    for (int k = 0; k < kLanes<T>; ++k) {
      const float s = sigmoid(gate[k]);
      dgate[k] = d[k] * up[k] * s * (1.0f + gate[k] * (1.0f - s));
      dup[k] = d[k] * gate[k] * s;
    }
    gates[i] = rounded<T>(dgate);
    gates[count + i] = rounded<T>(dup);
  }
}

// A block a mask.
__global__ void __launch_bounds__(kMaxThreads) dropout_row_keys(GpuDropoutRowKeys call) {
  const int64_t mask = blockIdx.x;
  const uint64_t key = call.mask_keys_M[mask];
  for (int64_t n = thread(); n < call.rows; n += threads()) {
    const uint64_t sample = random64(key, static_cast<uint64_t>(call.samples_N[n]));
    call.row_keys_MN[mask * call.rows + n] = random64(sample, static_cast<uint64_t>(call.positions_N[n]));
  }
}

template <typename T>
__global__ void __launch_bounds__(kMaxThreads) dropout_mask(GpuDropoutMask call) {
  const int64_t row = blockIdx.x;
  const int count = static_cast<int>(call.columns / kLanes<T>);
  const uint64_t key = call.dropout.row_keys_N[row];
  Piece<T>* mask = pieces(static_cast<T*>(call.mask_NC) + row * call.columns);
  for (int i = thread(); i < count; i += threads()) {
    const StreamPlace place(key, static_cast<uint64_t>(i) * kLanes<T>);
    float kept[kLanes<T>];
#pragma unroll
    for (int k = 0; k < kLanes<T>; ++k)
      kept[k] = (place.number(k) >> 32) < call.dropout.threshold ? 0.0f : call.dropout.kept;
    mask[i] = rounded<T>(kept);
  }
}

}  // namespace
}  // namespace rankwise

int rankwise_rope(const rankwise::GpuRope* call, void* stream) {
  using namespace rankwise;
  const int64_t half = call->head_dim / 2, numbers = call->heads * half, lane_count = lanes(call->type);
  if (half % lane_count == 0 && call->stride % lane_count == 0) {
    return start_rows(rope<float, kLanes<float>>, rope<BFloat16, kLanes<BFloat16>>, *call,
                      threads_for(numbers / lane_count, kMaxThreads), stream);
  }
  return start_rows(rope<float, 2>, rope<BFloat16, 2>, *call, threads_for(numbers / 2, kMaxThreads), stream);
}

int rankwise_swiglu(const rankwise::GpuSwiglu* call, void* stream) {
  using namespace rankwise;
  return start_rows(swiglu<float>, swiglu<BFloat16>, *call, threads_for(call->width / lanes(call->type), kMaxThreads),
                    stream);
}

int rankwise_swiglu_backward(const rankwise::GpuSwigluBackward* call, void* stream) {
  using namespace rankwise;
  return start_rows(swiglu_backward<float>, swiglu_backward<BFloat16>, *call,
                    threads_for(call->width / lanes(call->type), kMaxThreads), stream);
}

int rankwise_dropout_row_keys(const rankwise::GpuDropoutRowKeys* call, void* stream) {
  using namespace rankwise;
  if (call->masks == 0 || call->rows == 0) return cudaSuccess;
  dropout_row_keys<<<static_cast<unsigned>(call->masks), threads_for(call->rows, kMaxThreads), 0,
                     static_cast<cudaStream_t>(stream)>>>(*call);
  return cudaGetLastError();
}

int rankwise_dropout_mask(const rankwise::GpuDropoutMask* call, void* stream) {
  using namespace rankwise;
  return start_rows(dropout_mask<float>, dropout_mask<BFloat16>, *call,
                    threads_for(call->columns / lanes(call->type), kMaxThreads), stream);
}
