// Root-mean-square normalisation of rows, by a block each, and of heads, by a few neighbouring threads each. What is
// normalised is read once and stays in registers between its statistics and what is made of it; of a row too wide for
// that the rest is read again.
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
__device__ void add_squares(float& sum, const Piece<T>& x) {
#pragma unroll
  for (int k = 0; k < kLanes<T>; ++k) sum += x[k] * x[k];
}

template <typename T>
__device__ float reciprocal_root_mean_square(const HeldRow<T>& x, int count, float eps) {
  float sum = 0;
  each_piece<T>(
      count, [&](int, const Piece<T>& piece) { add_squares(sum, piece); }, x);
  const float columns = static_cast<float>(count) * kLanes<T>;
  return rsqrtf(block_reduce(sum, 0.0f, Sum{}) / columns + eps);
}

template <typename T>
__device__ Piece<T> normed(const Piece<T>& x, float rstd, const Piece<T>& weight) {
  float numbers[kLanes<T>];
#pragma unroll
  for (int k = 0; k < kLanes<T>; ++k) numbers[k] = x[k] * rstd;
  const Piece<T> n = rounded<T>(numbers);
#pragma unroll
  for (int k = 0; k < kLanes<T>; ++k) numbers[k] = n[k] * weight[k];
  return rounded<T>(numbers);
}

// g * x, of which the gradient wants the mean.
template <typename T>
__device__ void add_products(float& sum, const Piece<T>& dnormed, const Piece<T>& weight, const Piece<T>& x) {
#pragma unroll
  for (int k = 0; k < kLanes<T>; ++k) sum += dnormed[k] * weight[k] * x[k];
}

template <typename T>
__device__ void gradient_of(float (&dx)[kLanes<T>], const Piece<T>& dnormed, const Piece<T>& weight, const Piece<T>& x,
                            float rstd, float mean) {
#pragma unroll
  for (int k = 0; k < kLanes<T>; ++k) dx[k] = rstd * (dnormed[k] * weight[k] - x[k] * rstd * mean);
}

template <typename T>
__global__ void __launch_bounds__(kMaxThreads) rms_norm(GpuRmsNorm call) {
  const int64_t row = blockIdx.x, offset = row * call.columns;
  const int count = static_cast<int>(call.columns / kLanes<T>);
  const HeldRow<T> x(call.x_NC, offset, count), weight(call.weight_C, 0, count);
  const float rstd = reciprocal_root_mean_square(x, count, call.eps);
  if (thread() == 0) call.rstd_N[row] = rstd;

  Piece<T>* out = pieces(static_cast<T*>(call.normed_NC) + offset);
  each_piece<T>(
      count,
      [&](int i, const Piece<T>& x_piece, const Piece<T>& weight_piece) {
        out[i] = normed(x_piece, rstd, weight_piece);
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
  float sum = 0;
  each_piece<T>(
      count, [&](int i, const Piece<T>& dn, const Piece<T>& xs) { add_products(sum, dn, Piece<T>(weight[i]), xs); },
      dnormed, x);
  const float mean = block_reduce(sum, 0.0f, Sum{}) * rstd / static_cast<float>(call.columns);  // of g * n

  Piece<T>* gradient = pieces(static_cast<T*>(call.gradient_NC) + offset);
  each_piece<T>(
      count,
      [&](int i, const Piece<T>& dn, const Piece<T>& xs) {
        const Piece<T> w = weight[i];
        float dx[kLanes<T>];
        gradient_of(dx, dn, w, xs, rstd, mean);
        if (call.accumulate) {
          const Piece<T> before = gradient[i];
#pragma unroll
          for (int k = 0; k < kLanes<T>; ++k) dx[k] += before[k];
        }
        gradient[i] = rounded<T>(dx);
      },
      dnormed, x);
}

constexpr int kHeadThreads = 384, kHeadHeld = 2;  // of a block; pieces of a head by a thread

// The threads of a head of `count` pieces: neighbours in a warp, a power of two.
__host__ __device__ inline int threads_of_head(int64_t count) {
  int group = 1;
  while (group < count && group < 32) group *= 2;
  return group;
}

// A head of this block's row, a thread's pieces of it and its neighbours. All threads of a warp make one, also where
// the row has no head left for them.
template <typename T>
struct Head {
  int count, group, index, place;
  bool there;

  __device__ Head(int64_t heads, int64_t head_dim, int round)
      : count(static_cast<int>(head_dim / kLanes<T>)),
        group(threads_of_head(count)),
        index((round * threads() + thread()) / group),
        place(thread() % group),
        there(index < heads) {}

  // visit(k, i): this thread's k-th piece is the head's piece i.
  template <typename Visit>
  __device__ void each(Visit visit) const {
#pragma unroll
    for (int k = 0; k < kHeadHeld; ++k) {
      const int i = place + k * group;
      if (there && i < count) visit(k, i);
    }
  }
  __device__ float sum(float value) const {
    for (int distance = group / 2; distance > 0; distance /= 2) value += exchange(value, distance);
    return value;
  }
  __device__ float mean(float value) const { return sum(value) / (static_cast<float>(count) * kLanes<T>); }
};

// visit(head), until the row's heads are done.
template <typename T, typename Visit>
__device__ void each_head(int64_t heads, int64_t head_dim, Visit visit) {
  const auto all = static_cast<int>(heads) * threads_of_head(head_dim / kLanes<T>);
  for (int round = 0; round * threads() < all; ++round) visit(Head<T>(heads, head_dim, round));
}

template <typename T>
__global__ void __launch_bounds__(kHeadThreads, 4) head_norm(GpuHeadNorm call) {
  const int64_t row = blockIdx.x;
  const Piece<T>* weight = pieces(static_cast<const T*>(call.weight_D));
  each_head<T>(call.heads, call.head_dim, [&](const Head<T>& head) {
    const int64_t offset = head.index * call.head_dim;
    Piece<T>* x = pieces(static_cast<T*>(call.x_NHD) + row * call.stride + offset);
    Piece<T> held[kHeadHeld];
    float squares = 0;
    head.each([&](int k, int i) { add_squares(squares, held[k] = x[i]); });
    const float rstd = rsqrtf(head.mean(squares) + call.eps);
    head.each([&](int k, int i) { x[i] = normed(held[k], rstd, Piece<T>(weight[i])); });
    if (call.before_NHD == nullptr) return;
    Piece<T>* before = pieces(static_cast<T*>(call.before_NHD) + row * call.before_stride + offset);
    head.each([&](int k, int i) { before[i] = held[k]; });
  });
}

template <typename T>
__global__ void __launch_bounds__(kHeadThreads, 4) head_norm_backward(GpuHeadNormBackward call) {
  const int64_t row = blockIdx.x;
  const Piece<T>* weight = pieces(static_cast<const T*>(call.weight_D));
  each_head<T>(call.heads, call.head_dim, [&](const Head<T>& head) {
    const int64_t offset = head.index * call.head_dim;
    Piece<T>* gradient = pieces(static_cast<T*>(call.gradient_NHD) + row * call.stride + offset);
    const Piece<T>* x = pieces(static_cast<const T*>(call.x_NHD) + row * call.x_stride + offset);
    Piece<T> dnormed[kHeadHeld], held[kHeadHeld];
    float squares = 0, products = 0;
    head.each([&](int k, int i) {
      add_squares(squares, held[k] = x[i]);
      add_products(products, dnormed[k] = gradient[i], Piece<T>(weight[i]), held[k]);
    });
    const float rstd = rsqrtf(head.mean(squares) + call.eps), mean = head.mean(products) * rstd;
    head.each([&](int k, int i) {
      float dx[kLanes<T>];
      gradient_of(dx, dnormed[k], Piece<T>(weight[i]), held[k], rstd, mean);
      gradient[i] = rounded<T>(dx);
    });
  });
}

unsigned head_threads(int64_t heads, int64_t head_dim, GpuType type) {
  return threads_for(heads * threads_of_head(head_dim / lanes(type)), kHeadThreads);
}

unsigned norm_threads(int64_t columns) { return threads_for((columns + kHeldNumbers - 1) / kHeldNumbers, kMaxThreads); }

}  // namespace
}  // namespace rankwise

int rankwise_rms_norm(const rankwise::GpuRmsNorm* call, void* stream) {
  using namespace rankwise;
  return start_rows(rms_norm<float>, rms_norm<BFloat16>, *call, norm_threads(call->columns), stream);
}

int rankwise_rms_norm_backward(const rankwise::GpuRmsNormBackward* call, void* stream) {
  using namespace rankwise;
  return start_rows(rms_norm_backward<float>, rms_norm_backward<BFloat16>, *call, norm_threads(call->columns), stream);
}

int rankwise_head_norm(const rankwise::GpuHeadNorm* call, void* stream) {
  using namespace rankwise;
  return start_rows(head_norm<float>, head_norm<BFloat16>, *call, head_threads(call->heads, call->head_dim, call->type),
                    stream);
}

int rankwise_head_norm_backward(const rankwise::GpuHeadNormBackward* call, void* stream) {
  using namespace rankwise;
  return start_rows(head_norm_backward<float>, head_norm_backward<BFloat16>, *call,
                    head_threads(call->heads, call->head_dim, call->type), stream);
}
