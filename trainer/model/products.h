// Sums of matrix products over tensors: the one place where the model multiplies with frozen weights.
#pragma once

#include <ATen/core/Tensor.h>

#include <span>

namespace rankwise {

// left [N, K] times right [K, M]; right is often a transposed view.
struct Product {
  at::Tensor left, right;
};

// out [N, M] = start + the sum of the products (at least one). start: undefined (zeros), [M] or [N, M]; may be out.
// out may be some columns of a wider matrix. float32 on CPUs goes through trainer/kernels/gemm.h where this CPU has it:
// there, and only there, a right matrix may be bfloat16 beside float32. Else all have one dtype.
bool sums_mixed_products() noexcept;  // whether this CPU has it
void sum_products(at::Tensor out, const at::Tensor& start, std::span<const Product> products);
at::Tensor sum_products(const at::Tensor& start, std::span<const Product> products);

// Whether trainer/kernels/ takes this tensor: float32, in one piece, on a CPU that they know.
bool fits_cpu_kernels(const at::Tensor& tensor) noexcept;

// left right, where right has few columns: a shape that CPU libraries are slow at unless it is computed transposed.
at::Tensor narrow_product(const at::Tensor& left, const at::Tensor& right);

}  // namespace rankwise
