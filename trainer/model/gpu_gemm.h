// Large products on a CUDA device by cuBLASLt, which is asked for the algorithms that it takes for fastest; the first
// product of a shape (trainer/kernels/gemm_shape.h) times them on its own operands, and all that follow take the one
// that was. That costs up to a tenth of a second a shape, once for each kind of GPU where choices are kept in a file.
//
// With LibTorch's deterministic algorithms (train.deterministic) nothing is timed and no file is read: the algorithm is
// the one that cuBLASLt names first, so that equal runs give equal bits. Otherwise ranks, and runs without the same
// file, may round differently.
// Legend: N rows, M columns, K depth.
#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <mutex>
#include <optional>

#include "trainer/kernels/gemm_cache.h"

namespace rankwise {

// Of the current device. Thread-safe.
class GpuGemms {
 public:
  // Choices are kept in a file in `directory` (see GemmCache); empty: in memory alone.
  explicit GpuGemms(const std::filesystem::path& directory = {});

  // Starts the product on the current stream. False, with nothing done, where cuBLASLt has no algorithm for it.
  bool multiply(const GpuGemm& call);

  // Candidates that were timed so far; 0 where all choices were known.
  int64_t num_timed() const { return num_timed_; }

 private:
  std::optional<GemmAlgorithm> choose(const GpuGemm& call);
  std::optional<GemmAlgorithm> time(const GpuGemm& call);

  std::mutex mutex_;
  GemmCache cache_;
  int64_t num_timed_ = 0;
};

// What this process multiplies with; made by the first product, which reads the file. keep_gemm_choices_in: where that
// is, for a process whose first product is still to come.
GpuGemms& gpu_gemms();
void keep_gemm_choices_in(const std::filesystem::path& directory);

// The call for out = start + left right, all bfloat16 on one CUDA device, or left and right e4m3. start: undefined
// (zeros) or [N, M]; may be out. Any of them may be some columns of a wider matrix or a transposed view of one. nullopt
// where it is not such a product, or where a side is shorter than 256: what LibTorch knows as well.
std::optional<GpuGemm> large_gemm(const at::Tensor& out_NM, const at::Tensor& start_NM, const at::Tensor& left_NK,
                                  const at::Tensor& right_KM);

// out = start + left right, where large_gemm knows it and cuBLASLt too; else false, with nothing done. With scales
// (float32, contiguous; both or none) e4m3 codes are multiplied.
struct GemmScales {
  at::Tensor left_N, right_M;
};
bool multiply_large(const at::Tensor& out_NM, const at::Tensor& start_NM, const at::Tensor& left_NK,
                    const at::Tensor& right_KM, const GemmScales& scales = {});

}  // namespace rankwise
