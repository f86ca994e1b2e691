// Compiled for AVX-512: 28 of the 32 registers hold a tile.
#include "trainer/kernels/gemm_kernel_impl.h"
#include "trainer/kernels/rows_impl.h"

const rankwise::GemmKernel& rankwise::gemm_kernel_avx512() noexcept { return kKernel<14, 16>; }
const rankwise::RowKernels& rankwise::row_kernels_avx512() noexcept { return kRows<16>; }
