// Root-mean-square normalisation. A row is read once and stays in registers between its statistics and what is made of
// it; of a row too wide for that the rest is read again.
#include "trainer/kernels/gpu_vectors.cuh"

namespace rankwise {
namespace {

constexpr int kMaxThreads = 1024;
constexpr int kHeldNumbers = 16;  // of a row, by a thread: rows of 16,384 are held whole

template <typename T>
inline constexpr int kHeld = kHeldNumbers / kLanes<T>;  // the same in pieces

// A thread's pieces of one row: every threads()-th, the first ones in registers.
template <typename T>
struct HeldRow {
  const Piece<T>* row;
  Piece<T> held[kHeld<T>];

  __device__ HeldRow(const void* matrix, int64_t offset, int count)
      : row(pieces(static_cast<const T*>(matrix) + offset)) {
#pragma unroll
    for (int k = 0; k < kHeld<T>; ++k) {
      const int i = thread() + k * threads();
      if (i < count) held[k] = row[i];
    }
  }
};

// visit(i, piece i of each row), for this thread's of `count` pieces.
template <typename T, typename Visit, typename... Rows>
__device__ void each_piece(int count, Visit visit, const Rows&... rows) {
#pragma unroll
  for (int k = 0; k < kHeld<T>; ++k) {
    const int i = thread() + k * threads();
    if (i < count) visit(i, rows.held[k]...);
  }
  for (int i = thread() + kHeld<T> * threads(); i < count; i += threads()) visit(i, Piece<T>(rows.row[i])...);
}

template <typename T>
__device__ float reciprocal_root_mean_square(const HeldRow<T>& x, int count, float eps) {
  float sum = 0;
  each_piece<T>(
      count,
      [&](int, const Piece<T>& piece) {
#pragma unroll
        for (int k = 0; k < kLanes<T>; ++k) sum += piece[k] * piece[k];
      },
      x);
  const float columns = static_cast<float>(count) * kLanes<T>;
  return rsqrtf(block_reduce(sum, 0.0f, Sum{}) / columns + eps);
}

template <typename T, bool kRstdGiven>
__global__ void __launch_bounds__(kMaxThreads) rms_norm(GpuRmsNorm call) {
  const int64_t row = blockIdx.x, offset = row * call.columns;
  const int count = static_cast<int>(call.columns / kLanes<T>);
  const HeldRow<T> x(call.x_NC, offset, count), weight(call.weight_C, 0, count);
  const float rstd = kRstdGiven ? call.rstd_N[row] : reciprocal_root_mean_square(x, count, call.eps);
  if (!kRstdGiven && thread() == 0) call.rstd_N[row] = rstd;

  Piece<T>* normed = pieces(static_cast<T*>(call.normed_NC) + offset);
  each_piece<T>(
      count,
      [&](int i, const Piece<T>& x_piece, const Piece<T>& weight_piece) {
        float scaled[kLanes<T>];
#pragma unroll
        for (int k = 0; k < kLanes<T>; ++k) scaled[k] = x_piece[k] * rstd;
        const Piece<T> n = rounded<T>(scaled);
#pragma unroll
        for (int k = 0; k < kLanes<T>; ++k) scaled[k] = n[k] * weight_piece[k];
        normed[i] = rounded<T>(scaled);
      },
      x, weight);
}

template <typename T>
__global__ void __launch_bounds__(kMaxThreads) rms_norm_backward(GpuRmsNormBackward call) {
  const int64_t row = blockIdx.x, offset = row * call.columns;
  const int count = static_cast<int>(call.columns / kLanes<T>);
  const HeldRow<T> dnormed(call.dnormed_NC, offset, count), x(call.x_NC, offset, count);
  const Piece<T>* weight = pieces(static_cast<const T*>(call.weight_C));  // held as well, it would not fit
  const float rstd = call.rstd_N[row];
  float dot = 0;  // of g and x
  each_piece<T>(
      count,
      [&](int i, const Piece<T>& dn, const Piece<T>& xs) {
        const Piece<T> w = weight[i];
#pragma unroll
        for (int k = 0; k < kLanes<T>; ++k) dot += dn[k] * w[k] * xs[k];
      },
      dnormed, x);
  const float mean = block_reduce(dot, 0.0f, Sum{}) * rstd / static_cast<float>(call.columns);  // of g * n

  Piece<T>* gradient = pieces(static_cast<T*>(call.gradient_NC) + offset);
  each_piece<T>(
      count,
      [&](int i, const Piece<T>& dn, const Piece<T>& xs) {
        const Piece<T> w = weight[i];
        float sum[kLanes<T>];
#pragma unroll
        for (int k = 0; k < kLanes<T>; ++k) sum[k] = rstd * (dn[k] * w[k] - xs[k] * rstd * mean);
        if (call.accumulate) {
          const Piece<T> before = gradient[i];
#pragma unroll
          for (int k = 0; k < kLanes<T>; ++k) sum[k] += before[k];
        }
        gradient[i] = rounded<T>(sum);
      },
      dnormed, x);
}

unsigned norm_threads(int64_t columns) { return threads_for((columns + kHeldNumbers - 1) / kHeldNumbers, kMaxThreads); }

}  // namespace
}  // namespace rankwise

int rankwise_rms_norm(const rankwise::GpuRmsNorm* call, void* stream) {
  using namespace rankwise;
  return start_rows(rms_norm<float, false>, rms_norm<BFloat16, false>, *call, norm_threads(call->columns), stream);
}

int rankwise_rms_norm_apply(const rankwise::GpuRmsNorm* call, void* stream) {
  using namespace rankwise;
  return start_rows(rms_norm<float, true>, rms_norm<BFloat16, true>, *call, norm_threads(call->columns), stream);
}

int rankwise_rms_norm_backward(const rankwise::GpuRmsNormBackward* call, void* stream) {
  using namespace rankwise;
  return start_rows(rms_norm_backward<float>, rms_norm_backward<BFloat16>, *call, norm_threads(call->columns), stream);
}
