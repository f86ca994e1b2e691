// Which of the compiled instruction sets this CPU has.
#include "trainer/kernels/gemm.h"
#include "trainer/kernels/gemm_kernel.h"
#include "trainer/kernels/row_kernels.h"

namespace rankwise {
namespace {

#if defined(__x86_64__)
enum class Instructions { kNone, kAvx2, kAvx512 };

Instructions instructions_of_this_cpu() noexcept {
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq"))
    return Instructions::kAvx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Instructions::kAvx2;
  return Instructions::kNone;
}

template <typename Kernels>
const Kernels* choose(const Kernels& (*avx2)() noexcept, const Kernels& (*avx512)() noexcept) noexcept {
  static const Instructions here = instructions_of_this_cpu();
  if (here == Instructions::kNone) return nullptr;
  return here == Instructions::kAvx512 ? &avx512() : &avx2();
}
#endif

}  // namespace

#if defined(__x86_64__)
const GemmKernel* gemm_kernel() noexcept { return choose(&gemm_kernel_avx2, &gemm_kernel_avx512); }
const RowKernels* row_kernels() noexcept { return choose(&row_kernels_avx2, &row_kernels_avx512); }
#else
const GemmKernel* gemm_kernel() noexcept { return nullptr; }
const RowKernels* row_kernels() noexcept { return nullptr; }
#endif
bool gemm_supported() noexcept { return gemm_kernel() != nullptr; }

}  // namespace rankwise
