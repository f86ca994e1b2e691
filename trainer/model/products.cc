#include "trainer/model/products.h"

#include <ATen/ATen.h>
#include <ATen/record_function.h>

#include <algorithm>
#include <vector>

#include "base/check.h"
#include "trainer/kernels/gemm.h"
#include "trainer/model/gpu_gemm.h"

namespace rankwise {
namespace {

bool fits_our_kernel(const at::Tensor& out) {
  return sums_mixed_products() && out.is_cpu() && out.scalar_type() == at::kFloat && out.stride(1) == 1;
}

GemmTerm term_of(const Product& product) {
  const auto& [left, right] = product;
  RW_CHECK((left.stride(0) == 1 || left.stride(1) == 1) && (right.stride(0) == 1 || right.stride(1) == 1), Error,
           "sum_products: strides of {} and {} where one of each two has to be 1", fmt::join(left.strides(), ", "),
           fmt::join(right.strides(), ", "));
  const bool bfloat16 = right.scalar_type() == at::kBFloat16;
  return {left.const_data_ptr<float>(),
          left.stride(0),
          left.stride(1),
          bfloat16 ? right.const_data_ptr() : static_cast<const void*>(right.const_data_ptr<float>()),
          bfloat16,
          right.stride(0),
          right.stride(1),
          right.size(0)};
}

void sum_with_our_kernel(at::Tensor& out, const at::Tensor& start, std::span<const Product> products) {
  std::vector<GemmTerm> terms;
  for (const auto& product : products) terms.push_back(term_of(product));
  GemmOutput output{out.mutable_data_ptr<float>(), out.stride(0), nullptr, 0, out.size(0), out.size(1)};
  if (start.defined()) {
    output.start = start.const_data_ptr<float>();
    output.start_stride = start.dim() == 2 ? start.stride(0) : 0;
  }
  gemm(output, terms);
}

constexpr int64_t kNarrow = 256;  // low-rank terms are narrower, the sides of a frozen matrix mostly not

// out = start + left right
void add_product(at::Tensor& out, const at::Tensor& start, const Product& product) {
  RECORD_FUNCTION(product.left.size(1) < kNarrow ? "rankwise::narrow_product" : "rankwise::wide_product", {});
  const auto& [left, right] = product;
  if (multiply_large(out, start, left, right)) return;
  start.defined() ? at::addmm_out(out, start, left, right) : at::mm_out(out, left, right);
}

}  // namespace

bool sums_mixed_products() noexcept {
  static const bool supported = gemm_supported();
  return supported;
}

bool fits_cpu_kernels(const at::Tensor& tensor) noexcept {
  return sums_mixed_products() && tensor.is_cpu() && tensor.scalar_type() == at::kFloat && tensor.is_contiguous();
}

void sum_products(at::Tensor out, const at::Tensor& start, std::span<const Product> products) {
  RECORD_FUNCTION("rankwise::sum_products", {});
  if (fits_our_kernel(out)) return sum_with_our_kernel(out, start, products);
  // The narrowest first: what the others read to add to is hidden behind their multiplying.
  std::vector<Product> ordered(products.begin(), products.end());
  std::ranges::stable_sort(ordered, {}, [](const Product& product) { return product.left.size(1); });
  add_product(out, start, ordered.front());
  for (const auto& product : std::span(ordered).subspan(1)) add_product(out, out, product);
}

at::Tensor sum_products(const at::Tensor& start, std::span<const Product> products) {
  const auto& [left, right] = products.front();
  at::Tensor out = at::empty({left.size(0), right.size(1)}, left.options());
  sum_products(out, start, products);
  return out;
}

at::Tensor narrow_product(const at::Tensor& left, const at::Tensor& right) {
  RECORD_FUNCTION("rankwise::narrow_product", {});
  return left.is_cpu() ? right.t().mm(left.t()).t().contiguous() : left.mm(right);
}

}  // namespace rankwise
