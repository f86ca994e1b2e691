#include "trainer/optim/adamw.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "trainer/optim/clip.h"

namespace rankwise {
namespace {

struct Coefficients {
  double keep, beta1, beta2, step_size, inverse_root_correction2, epsilon, gradient_scale;
};

template <typename T>
void update_range(T* p, T* m, T* v, const T* g, int64_t count, const Coefficients& c) {
  const T keep = static_cast<T>(c.keep), beta1 = static_cast<T>(c.beta1), beta2 = static_cast<T>(c.beta2);
  const T other1 = static_cast<T>(1.0 - c.beta1), other2 = static_cast<T>(1.0 - c.beta2);
  const T step_size = static_cast<T>(c.step_size), root = static_cast<T>(c.inverse_root_correction2);
  const T epsilon = static_cast<T>(c.epsilon), scale = static_cast<T>(c.gradient_scale);
  for (int64_t i = 0; i < count; ++i) {
    const T gradient = g[i] * scale;
    m[i] = beta1 * m[i] + other1 * gradient;
    v[i] = beta2 * v[i] + other2 * gradient * gradient;
    p[i] = keep * p[i] - step_size * m[i] / (std::sqrt(v[i]) * root + epsilon);
  }
}

}  // namespace

AdamW::AdamW(at::Tensor parameters, const AdamWOptions& options)
    : parameters_(std::move(parameters)),
      first_moment_(at::zeros_like(parameters_)),
      second_moment_(at::zeros_like(parameters_)),
      options_(options) {
  RW_CHECK(parameters_.is_contiguous() && parameters_.dim() == 1, Error, "AdamW works on one flat buffer");
}

at::Tensor AdamW::update(const at::Tensor& gradients, const at::Tensor& targets, const at::Tensor& nonfinite,
                         double learning_rate, double max_grad_norm) {
  const double scale = 1.0 / std::max(1.0, targets.item<double>());
  const double norm = gradient_norm(gradients) * scale;
  const bool applied = nonfinite.item<double>() <= 0 && std::isfinite(norm);
  if (applied) step(gradients, learning_rate, scale * clip_factor(norm, max_grad_norm));
  return at::tensor({norm, applied ? 1.0 : 0.0}, at::kDouble);
}

void AdamW::step(const at::Tensor& gradients, double learning_rate, double gradient_scale) {
  ++steps_;
  const double t = static_cast<double>(steps_);
  const Coefficients c{1.0 - learning_rate * options_.weight_decay,
                       options_.beta1,
                       options_.beta2,
                       learning_rate / (1.0 - std::pow(options_.beta1, t)),
                       1.0 / std::sqrt(1.0 - std::pow(options_.beta2, t)),
                       options_.epsilon,
                       gradient_scale};
  AT_DISPATCH_FLOATING_TYPES(parameters_.scalar_type(), "AdamW", [&] {
    auto *p = parameters_.data_ptr<scalar_t>(), *m = first_moment_.data_ptr<scalar_t>(),
         *v = second_moment_.data_ptr<scalar_t>();
    const auto* g = gradients.const_data_ptr<scalar_t>();
    at::parallel_for(0, parameters_.numel(), 32768, [&](int64_t begin, int64_t end) {
      update_range(p + begin, m + begin, v + begin, g + begin, end - begin, c);
    });
  });
}

}  // namespace rankwise
