// Products on a CUDA device by cuBLASLt, by an algorithm that the caller chose: trainer/kernels/gemm_cache.h keeps
// choices, trainer/model/gpu_gemm.h makes them. Compiled into librankwise_cuda.so.
// Pointers are device memory, strides count elements; what is summed is float32, rounded once when stored. cuBLASLt may
// use the workspace that LibTorch holds for the current stream, so `stream` is that one.
// Legend: N rows, M columns, K depth.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rankwise {

// out = start + left right, in bfloat16; with scales left and right are e4m3, and
// out[n][m] = start[n][m] + left_scales[n] right_scales[m] sum over k of left[n][k] right[k][m]. For e4m3 cuBLASLt
// knows on Hopper a left that is not and a right that is transposed, with K and M multiples of 16.
struct GpuGemm {
  const void* left_NK;
  const void* right_KM;
  const void* start_NM;  // null: zeros; may be out_NM
  void* out_NM;
  const float* left_scales_N;  // both or none
  const float* right_scales_M;
  int64_t rows, columns, depth;
  // From row to row; of a transposed matrix from column to column, as its columns are what lies in one piece.
  int64_t left_stride, right_stride, start_stride, out_stride;
  bool left_transposed, right_transposed;
};

// What cuBLASLt calls a cublasLtMatmulAlgo_t: plain numbers that mean the same to the same version of it.
struct GemmAlgorithm {
  uint64_t words[8];
  bool operator==(const GemmAlgorithm&) const = default;
};

// Where a choice holds.
struct GemmDevice {
  char name[256];             // as the driver says
  int32_t multiprocessors;    // of a part of a GPU (MIG) fewer than of the whole
  uint64_t cublaslt_version;  // 130100: 13.1.0
};

// What rankwise_time_gemms needs and says.
struct GemmTiming {
  const GpuGemm* call;
  const GemmAlgorithm* algorithms;
  int count, rounds;
  float* milliseconds;  // [count][rounds]; infinity for one that this product cannot run with
};

}  // namespace rankwise

extern "C" {
int rankwise_gemm_device(rankwise::GemmDevice* device);  // the current one; returns a cudaError_t

// The algorithms, at most `most`, that cuBLASLt takes for fastest, best first. Returns their number: 0 where it knows
// none. Those that add parts of a sum in bfloat16 are left out.
int rankwise_gemm_candidates(const rankwise::GpuGemm* call, rankwise::GemmAlgorithm* found, int most);

// Whether the product can run with this algorithm on this device and in the workspace that there is.
bool rankwise_gemm_fits(const rankwise::GpuGemm* call, const rankwise::GemmAlgorithm* algorithm);

// Starts the product. Returns a cublasStatus_t, 0 for success; nothing was started otherwise.
int rankwise_gemm(const rankwise::GpuGemm* call, const rankwise::GemmAlgorithm* algorithm, void* stream);

// Runs each algorithm once, then all of them by turns, `rounds` times, between events on the stream, and waits for it.
// Every run writes `out`. Returns a cudaError_t.
int rankwise_time_gemms(const rankwise::GemmTiming* timing, void* stream);

// From comms/: LibTorch's cuBLAS handle of this thread and device, which serves cuBLASLt as well, and the workspace
// that it holds for the current stream; null and 0 where the user has allowed none (CUBLAS_WORKSPACE_CONFIG).
void* rankwise_blas(void** workspace, size_t* workspace_bytes);
}
