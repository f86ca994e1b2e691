#include "trainer/kernels/gpu_gemm.h"

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <limits>
#include <vector>

#include "trainer/kernels/gemm_shape.h"

namespace rankwise {
namespace {

static_assert(sizeof(GemmAlgorithm) == sizeof(cublasLtMatmulAlgo_t));

// The first failure of several calls.
class Status {
 public:
  void operator+=(cublasStatus_t status) {
    if (code_ == CUBLAS_STATUS_SUCCESS) code_ = status;
  }
  bool good() const { return code_ == CUBLAS_STATUS_SUCCESS; }
  cublasStatus_t code() const { return code_; }

 private:
  cublasStatus_t code_ = CUBLAS_STATUS_SUCCESS;
};

// A product in cuBLASLt's words. That counts in columns what we count in rows, so it is asked for
// out^T = start^T + right^T left^T, whose first factor is our right and whose rows are our columns.
struct Description {
  cublasLtMatmulDescOpaque_t operation;
  cublasLtMatrixLayoutOpaque_t right, left, start, out;
  Status status;
};

template <typename Value>
void set(Description& d, cublasLtMatmulDescAttributes_t attribute, Value value) {
  d.status += cublasLtMatmulDescSetAttribute(&d.operation, attribute, &value, sizeof value);
}

void set_scales(Description& d, const GpuGemm& call) {
  constexpr int32_t kVector = CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
  set(d, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, kVector);
  set(d, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, kVector);
  set(d, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, static_cast<const void*>(call.right_scales_M));
  set(d, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, static_cast<const void*>(call.left_scales_N));
  set(d, CUBLASLT_MATMUL_DESC_FAST_ACCUM, int8_t{1});  // as LibTorch's scaled products are asked for
}

void set_layout(Description& d, cublasLtMatrixLayoutOpaque_t& layout, cudaDataType_t type, int64_t rows,
                int64_t columns, bool transposed, int64_t stride) {
  d.status += cublasLtMatrixLayoutInit(&layout, type, static_cast<uint64_t>(transposed ? rows : columns),
                                       static_cast<uint64_t>(transposed ? columns : rows), stride);
}

Description describe(const GpuGemm& call) {
  const bool scaled = call.left_scales_N != nullptr;
  const cudaDataType_t type = scaled ? CUDA_R_8F_E4M3 : CUDA_R_16BF;
  Description d{};
  d.status += cublasLtMatmulDescInit(&d.operation, CUBLAS_COMPUTE_32F, CUDA_R_32F);
  set(d, CUBLASLT_MATMUL_DESC_TRANSA, int32_t{call.right_transposed ? CUBLAS_OP_T : CUBLAS_OP_N});
  set(d, CUBLASLT_MATMUL_DESC_TRANSB, int32_t{call.left_transposed ? CUBLAS_OP_T : CUBLAS_OP_N});
  if (scaled) set_scales(d, call);
  set_layout(d, d.right, type, call.depth, call.columns, call.right_transposed, call.right_stride);
  set_layout(d, d.left, type, call.rows, call.depth, call.left_transposed, call.left_stride);
  const int64_t start_stride = call.start_NM == nullptr ? call.out_stride : call.start_stride;
  set_layout(d, d.start, CUDA_R_16BF, call.rows, call.columns, false, start_stride);
  set_layout(d, d.out, CUDA_R_16BF, call.rows, call.columns, false, call.out_stride);
  return d;
}

struct Blas {
  void* workspace = nullptr;
  size_t workspace_bytes = 0;
  // Of cuBLAS, which may stand in for one of cuBLASLt.
  cublasLtHandle_t handle = static_cast<cublasLtHandle_t>(rankwise_blas(&workspace, &workspace_bytes));
};

cublasStatus_t multiply(const GpuGemm& call, Description& d, const GemmAlgorithm& algorithm, const Blas& blas,
                        void* stream) {
  if (!d.status.good()) return d.status.code();
  const float one = 1.0f, beta = call.start_NM == nullptr ? 0.0f : 1.0f;
  const void* const start = call.start_NM == nullptr ? call.out_NM : call.start_NM;
  return cublasLtMatmul(blas.handle, &d.operation, &one, call.right_KM, &d.right, call.left_NK, &d.left, &beta, start,
                        &d.start, call.out_NM, &d.out, reinterpret_cast<const cublasLtMatmulAlgo_t*>(&algorithm),
                        blas.workspace, blas.workspace_bytes, static_cast<cudaStream_t>(stream));
}

struct Preference {
  cublasLtMatmulPreferenceOpaque_t value;
  Status status;
};

template <typename Value>
void set(Preference& p, cublasLtMatmulPreferenceAttributes_t attribute, Value value) {
  p.status += cublasLtMatmulPreferenceSetAttribute(&p.value, attribute, &value, sizeof value);
}

Preference preference_of(const GpuGemm& call, const Blas& blas) {
  const GemmShape shape = shape_of(call);  // its alignments, so that a choice fits all calls of the shape
  Preference p{};
  p.status += cublasLtMatmulPreferenceInit(&p.value);
  set(p, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{blas.workspace_bytes});
  // Neither in bfloat16 nor in the place of the result.
  set(p, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});
  set(p, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, shape.right_alignment);
  set(p, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, shape.left_alignment);
  set(p, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, shape.start_alignment);
  set(p, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, shape.out_alignment);
  return p;
}

// Events of one timing, and the error that any call to the runtime was the first to make.
class Stopwatch {
 public:
  Stopwatch(size_t count, void* stream) : events_(count), stream_(static_cast<cudaStream_t>(stream)) {
    for (auto& event : events_) note(cudaEventCreate(&event));
  }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;
  ~Stopwatch() {
    for (const auto event : events_) {
      if (event != nullptr) cudaEventDestroy(event);
    }
  }
  void mark(size_t at) { note(cudaEventRecord(events_[at], stream_)); }
  void wait() { note(cudaStreamSynchronize(stream_)); }
  float between(size_t begin, size_t end) {
    float milliseconds = 0;
    note(cudaEventElapsedTime(&milliseconds, events_[begin], events_[end]));
    return milliseconds;
  }
  cudaError_t error() const { return error_; }

 private:
  void note(cudaError_t error) {
    if (error_ == cudaSuccess) error_ = error;
  }

  std::vector<cudaEvent_t> events_;
  cudaStream_t stream_;
  cudaError_t error_ = cudaSuccess;
};

// Which of the algorithms run.
std::vector<int> warm_up(const GemmTiming& timing, Description& d, const Blas& blas, void* stream) {
  std::vector<int> running;
  for (int a = 0; a < timing.count; ++a) {
    if (multiply(*timing.call, d, timing.algorithms[a], blas, stream) == CUBLAS_STATUS_SUCCESS) running.push_back(a);
  }
  return running;
}

}  // namespace
}  // namespace rankwise

int rankwise_gemm_device(rankwise::GemmDevice* device) {
  int index = 0;
  cudaDeviceProp properties;
  if (const cudaError_t error = cudaGetDevice(&index); error != cudaSuccess) return error;
  if (const cudaError_t error = cudaGetDeviceProperties(&properties, index); error != cudaSuccess) return error;
  std::snprintf(device->name, sizeof device->name, "%s", properties.name);
  device->multiprocessors = properties.multiProcessorCount;
  device->cublaslt_version = cublasLtGetVersion();
  return cudaSuccess;
}

int rankwise_gemm_candidates(const rankwise::GpuGemm* call, rankwise::GemmAlgorithm* found, int most) {
  using namespace rankwise;
  const Blas blas;
  Description d = describe(*call);
  Preference preference = preference_of(*call, blas);
  if (!d.status.good() || !preference.status.good()) return 0;
  std::vector<cublasLtMatmulHeuristicResult_t> results(static_cast<size_t>(most));
  int count = 0;
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(blas.handle, &d.operation, &d.right, &d.left, &d.start,
                                                               &d.out, &preference.value, most, results.data(), &count);
  if (status != CUBLAS_STATUS_SUCCESS) return 0;
  int good = 0;
  for (int i = 0; i < count; ++i) {
    const auto& result = results[static_cast<size_t>(i)];
    if (result.state != CUBLAS_STATUS_SUCCESS) continue;
    std::copy_n(result.algo.data, std::size(found->words), found[good++].words);
  }
  return good;
}

bool rankwise_gemm_fits(const rankwise::GpuGemm* call, const rankwise::GemmAlgorithm* algorithm) {
  using namespace rankwise;
  const Blas blas;
  Description d = describe(*call);
  cublasLtMatmulHeuristicResult_t result{};
  return d.status.good() &&
         cublasLtMatmulAlgoCheck(blas.handle, &d.operation, &d.right, &d.left, &d.start, &d.out,
                                 reinterpret_cast<const cublasLtMatmulAlgo_t*>(algorithm),
                                 &result) == CUBLAS_STATUS_SUCCESS &&
         result.workspaceSize <= blas.workspace_bytes;
}

int rankwise_gemm(const rankwise::GpuGemm* call, const rankwise::GemmAlgorithm* algorithm, void* stream) {
  rankwise::Description d = rankwise::describe(*call);
  return rankwise::multiply(*call, d, *algorithm, {}, stream);
}

int rankwise_time_gemms(const rankwise::GemmTiming* timing, void* stream) {
  using namespace rankwise;
  const Blas blas;
  Description d = describe(*timing->call);
  const std::vector<int> running = warm_up(*timing, d, blas, stream);
  const size_t runs = running.size() * static_cast<size_t>(timing->rounds);
  Stopwatch watch(runs + 1, stream);
  watch.mark(0);
  for (size_t run = 0; run < runs; ++run) {
    const auto& algorithm = timing->algorithms[running[run % running.size()]];
    multiply(*timing->call, d, algorithm, blas, stream);
    watch.mark(run + 1);
  }
  watch.wait();
  std::fill_n(timing->milliseconds, timing->count * timing->rounds, std::numeric_limits<float>::infinity());
  for (size_t run = 0; run < runs; ++run) {
    const size_t a = static_cast<size_t>(running[run % running.size()]), round = run / running.size();
    timing->milliseconds[a * static_cast<size_t>(timing->rounds) + round] = watch.between(run, run + 1);
  }
  return watch.error();
}
