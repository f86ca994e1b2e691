// Cross entropy in two passes over a row: its largest logit and the sum of exponentials together (Milakov and
// Gimelshein 2018), then the gradient in place. As much of the row as shared memory takes stays there between the two;
// of 128,256 bfloat16 an H100 leaves a tenth, which is in the L2 cache still.
#include <cfloat>

#include "trainer/kernels/gpu_vectors.cuh"

namespace rankwise {
namespace {

constexpr int kThreads = 1024;
constexpr int kBatch = 4;  // pieces that a thread asks for before it uses the first

extern __shared__ uint4 held_row[];

struct MaxAndSum {
  float largest, sum;  // sum of exp(x - largest)
};

// Not -infinity: exp(-infinity - -infinity) is no number, and a row may hold some.
__device__ MaxAndSum nothing() { return {-FLT_MAX, 0.0f}; }

__device__ MaxAndSum exchange(MaxAndSum value, int distance) {
  return {rankwise::exchange(value.largest, distance), rankwise::exchange(value.sum, distance)};
}

struct Merge {
  // No fused multiply-add: it would round (a, b) and (b, a) differently.
  __device__ MaxAndSum operator()(MaxAndSum a, MaxAndSum b) const {
    const float largest = fmaxf(a.largest, b.largest);
    return {largest,
            __fadd_rn(__fmul_rn(a.sum, __expf(a.largest - largest)), __fmul_rn(b.sum, __expf(b.largest - largest)))};
  }
};

// A row as 16-byte pieces and, where it does not begin or end on 16 bytes, single numbers beside them: at most
// 2 * (kLanes - 1), less than there are threads. The first `held` pieces have their place in shared memory; each is
// written and read by one thread.
template <typename T>
struct Row {
  T* numbers;
  int before, count, edges;  // single numbers in front, pieces, single numbers in all
  int held;

  __device__ Row(T* begin, int columns, int held_pieces) : numbers(begin), held(held_pieces) {
    const auto misplaced = static_cast<int>(reinterpret_cast<uintptr_t>(begin) % 16 / sizeof(T));
    before = min(columns, (kLanes<T> - misplaced) % kLanes<T>);
    count = (columns - before) / kLanes<T>;
    edges = columns - count * kLanes<T>;
  }
  __device__ Piece<T>* body() const { return pieces(numbers + before); }
  __device__ Piece<T>* held_body() const { return reinterpret_cast<Piece<T>*>(held_row); }
  __device__ bool has_edge() const { return thread() < edges; }
  __device__ T& edge() const { return numbers[thread() < before ? thread() : thread() + count * kLanes<T>]; }
};

template <typename T>
__device__ Piece<T> minus_infinity() {
  float numbers[kLanes<T>];
#pragma unroll
  for (int k = 0; k < kLanes<T>; ++k) numbers[k] = -INFINITY;
  return rounded<T>(numbers);
}

template <typename T>
__device__ MaxAndSum add(MaxAndSum so_far, const Piece<T> (&batch)[kBatch]) {
  float largest = so_far.largest;
#pragma unroll
  for (int b = 0; b < kBatch; ++b) {
#pragma unroll
    for (int k = 0; k < kLanes<T>; ++k) largest = fmaxf(largest, batch[b][k]);
  }
  float sum = so_far.sum * __expf(so_far.largest - largest);
#pragma unroll
  for (int b = 0; b < kBatch; ++b) {
#pragma unroll
    for (int k = 0; k < kLanes<T>; ++k) sum += __expf(batch[b][k] - largest);
  }
  return {largest, sum};
}

template <typename T>
__device__ MaxAndSum row_statistics(const Row<T>& row) {
  MaxAndSum mine = nothing();
  if (row.has_edge()) mine = Merge{}(mine, {static_cast<float>(row.edge()), 1.0f});
  const Piece<T>* body = row.body();
  for (int first = thread(); first < row.count; first += kBatch * kThreads) {
    Piece<T> batch[kBatch];
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      const int i = first + b * kThreads;
      batch[b] = i < row.count ? body[i] : minus_infinity<T>();  // which adds 0
    }
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      const int i = first + b * kThreads;
      if (i < row.held) row.held_body()[i] = batch[b];
    }
    mine = add(mine, batch);
  }
  return block_reduce(mine, nothing(), Merge{});
}

template <typename T>
__device__ Piece<T> probabilities(const Piece<T>& logits, float largest, float inverse_sum) {
  float numbers[kLanes<T>];
#pragma unroll
  for (int k = 0; k < kLanes<T>; ++k) numbers[k] = __expf(logits[k] - largest) * inverse_sum;
  return rounded<T>(numbers);
}

template <typename T>
__device__ void write_probabilities(const Row<T>& row, float largest, float inverse_sum) {
  if (row.has_edge()) {
    row.edge() = static_cast<T>(__expf(static_cast<float>(row.edge()) - largest) * inverse_sum);
  }
  Piece<T>* body = row.body();
  for (int first = thread(); first < row.count; first += kBatch * kThreads) {
    Piece<T> batch[kBatch];
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      const int i = first + b * kThreads;
      if (i < row.count) batch[b] = i < row.held ? row.held_body()[i] : body[i];
    }
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      const int i = first + b * kThreads;
      if (i < row.count) body[i] = probabilities(batch[b], largest, inverse_sum);
    }
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads) cross_entropy(GpuCrossEntropy call, int held) {
  const int64_t n = blockIdx.x, target = call.targets_N[n];
  const Row<T> row(static_cast<T*>(call.logits_NV) + n * call.columns, static_cast<int>(call.columns), held);
  const float target_logit = static_cast<float>(row.numbers[target]);  // before anything is written
  const MaxAndSum found = row_statistics(row);
  if (thread() == 0) call.loss_N[n] = logf(found.sum) + (found.largest - target_logit);
  if (!call.with_gradient) return;
  const float inverse_sum = 1.0f / found.sum;
  write_probabilities(row, found.largest, inverse_sum);
  __syncthreads();
  if (thread() == 0) {
    row.numbers[target] = static_cast<T>(__expf(target_logit - found.largest) * inverse_sum - 1.0f);
  }
}

// Shared memory that a block may ask for, beside what block_reduce has.
cudaError_t most_held_bytes(const void* kernel, int* bytes) {
  cudaFuncAttributes attributes;
  if (const auto code = cudaFuncGetAttributes(&attributes, kernel)) return code;
  *bytes = device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin) - static_cast<int>(attributes.sharedSizeBytes);
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, *bytes);
}

template <typename T>
cudaError_t start(const GpuCrossEntropy& call, void* stream) {
  const auto kernel = cross_entropy<T>;
  int most = 0;
  if (const auto code = most_held_bytes(reinterpret_cast<const void*>(kernel), &most)) return code;
  const int64_t pieces = call.with_gradient ? std::min<int64_t>(call.columns / kLanes<T>, most / sizeof(Piece<T>)) : 0;
  kernel<<<static_cast<unsigned>(call.rows), kThreads, static_cast<size_t>(pieces) * sizeof(Piece<T>),
           static_cast<cudaStream_t>(stream)>>>(call, static_cast<int>(pieces));
  return cudaGetLastError();
}

}  // namespace
}  // namespace rankwise

int rankwise_cross_entropy(const rankwise::GpuCrossEntropy* call, void* stream) {
  using namespace rankwise;
  if (call->rows == 0) return cudaSuccess;
  return call->type == GpuType::kFloat32 ? start<float>(*call, stream) : start<BFloat16>(*call, stream);
}
