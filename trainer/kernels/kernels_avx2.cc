// Compiled for AVX2 and FMA: 12 of the 16 registers hold a tile.
#include "trainer/kernels/gemm_kernel_impl.h"
#include "trainer/kernels/rows_impl.h"

const rankwise::GemmKernel& rankwise::gemm_kernel_avx2() noexcept { return kKernel<6, 8>; }
const rankwise::RowKernels& rankwise::row_kernels_avx2() noexcept { return kRows<8>; }
