#include "trainer/optim/clip.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/record_function.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace rankwise {
namespace {

constexpr int64_t kBlock = 1 << 16;  // elements summed by one thread

template <typename T>
double sum_of_squares(const T* values, int64_t count) {
  constexpr int kLanes = 8;  // independent sums: one would wait for each addition
  double sums[kLanes] = {};
  for (int64_t i = 0; i + kLanes <= count; i += kLanes) {
    for (int k = 0; k < kLanes; ++k) sums[k] += static_cast<double>(values[i + k]) * static_cast<double>(values[i + k]);
  }
  for (int64_t i = count - count % kLanes; i < count; ++i)
    sums[0] += static_cast<double>(values[i]) * static_cast<double>(values[i]);
  return std::accumulate(sums, sums + kLanes, 0.0);
}

}  // namespace

// Not linalg_vector_norm: that makes a float64 copy of the whole buffer first. The blocks are the same for any number
// of threads, and so is the sum.
at::Tensor sum_of_squares(const at::Tensor& gradients) {
  RECORD_FUNCTION("rankwise::sum_of_squares", {});
  if (!gradients.is_cpu()) return at::linalg_vector_norm(gradients).to(at::kDouble).square_();
  const int64_t count = gradients.numel();
  std::vector<double> sums(static_cast<size_t>((count + kBlock - 1) / kBlock));
  AT_DISPATCH_FLOATING_TYPES(gradients.scalar_type(), "gradient_norm", [&] {
    const auto* values = gradients.const_data_ptr<scalar_t>();
    at::parallel_for(0, static_cast<int64_t>(sums.size()), 1, [&](int64_t first, int64_t last) {
      for (int64_t b = first; b < last; ++b)
        sums[static_cast<size_t>(b)] = sum_of_squares(values + b * kBlock, std::min(kBlock, count - b * kBlock));
    });
  });
  return at::scalar_tensor(std::accumulate(sums.begin(), sums.end(), 0.0), at::kDouble);
}

double gradient_norm(const at::Tensor& gradients) { return std::sqrt(sum_of_squares(gradients).item<double>()); }

double clip_factor(double norm, double max_norm) {
  return max_norm <= 0 ? 1.0 : std::min(1.0, max_norm / (norm + 1e-6));
}

}  // namespace rankwise
