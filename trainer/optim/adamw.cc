#include "trainer/optim/adamw.h"

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/record_function.h>

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "base/check.h"
#include "base/shared_library.h"
#include "trainer/kernels/adamw.h"
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

struct DeviceKernels {
  decltype(rankwise_adamw_prepare)* prepare =
      cuda_library_function<decltype(rankwise_adamw_prepare)>("rankwise_adamw_prepare");
  decltype(rankwise_adamw_step)* step = cuda_library_function<decltype(rankwise_adamw_step)>("rankwise_adamw_step");
  void* (*current_stream)() = cuda_library_function<void*()>("rankwise_current_stream");
};

void require_started(int code) {
  RW_CHECK(code == 0, Error, "AdamW could not be started: error {} of the CUDA runtime", code);
}

// float64 on a device: for tests.
void update_by_expressions(at::Tensor& p, at::Tensor& m, at::Tensor& v, const at::Tensor& gradients,
                           const Coefficients& c) {
  const at::Tensor g = gradients.mul(c.gradient_scale);
  m.mul_(c.beta1).add_(g, 1.0 - c.beta1);
  v.mul_(c.beta2).addcmul_(g, g, 1.0 - c.beta2);
  p.mul_(c.keep).addcdiv_(m, v.sqrt().mul_(c.inverse_root_correction2).add_(c.epsilon), -c.step_size);
}

}  // namespace

AdamW::AdamW(at::Tensor parameters, const AdamWOptions& options)
    : parameters_(std::move(parameters)),
      first_moment_(at::zeros_like(parameters_)),
      second_moment_(at::zeros_like(parameters_)),
      options_(options) {
  RW_CHECK(parameters_.is_contiguous() && parameters_.dim() == 1, Error, "AdamW works on one flat buffer");
  if (parameters_.is_cpu() || parameters_.scalar_type() != at::kFloat) return;
  device_steps_ = at::zeros({1}, parameters_.options().dtype(at::kLong));
  block_sums_ = at::zeros({kAdamWBlockSums}, parameters_.options().dtype(at::kDouble));
  scalars_ = at::zeros({static_cast<int64_t>(sizeof(AdamWScalars))}, parameters_.options().dtype(at::kByte));
}

int64_t AdamW::steps() const { return device_steps_.defined() ? device_steps_.item<int64_t>() : steps_; }

void AdamW::set_steps(int64_t steps) {
  steps_ = steps;
  if (device_steps_.defined()) device_steps_.fill_(steps);
}

at::Tensor AdamW::update_on_device(const at::Tensor& gradients, const at::Tensor& targets, const at::Tensor& nonfinite,
                                   double learning_rate, double max_grad_norm) {
  static const DeviceKernels kernels;
  auto* const scalars = reinterpret_cast<AdamWScalars*>(scalars_.mutable_data_ptr());
  const AdamWSettings settings{learning_rate,  options_.weight_decay, options_.beta1,
                               options_.beta2, options_.epsilon,      max_grad_norm};
  const AdamWPreparation preparation{gradients.const_data_ptr<float>(),
                                     gradients.numel(),
                                     targets.const_data_ptr<double>(),
                                     nonfinite.const_data_ptr<double>(),
                                     block_sums_.mutable_data_ptr<double>(),
                                     device_steps_.mutable_data_ptr<int64_t>(),
                                     scalars};
  const AdamWBuffers buffers{parameters_.mutable_data_ptr<float>(),
                             first_moment_.mutable_data_ptr<float>(),
                             second_moment_.mutable_data_ptr<float>(),
                             gradients.const_data_ptr<float>(),
                             /*compute_copy=*/nullptr,
                             parameters_.numel()};
  void* const stream = kernels.current_stream();
  require_started(kernels.prepare(&preparation, &settings, stream));
  require_started(kernels.step(&buffers, scalars, &settings, stream));
  const at::Tensor norm = scalars_.narrow(0, offsetof(AdamWScalars, norm), sizeof(double)).view(at::kDouble);
  const at::Tensor applied = scalars_.narrow(0, offsetof(AdamWScalars, applied), sizeof(int)).view(at::kInt);
  return at::cat({norm, applied.to(at::kDouble)});
}

at::Tensor AdamW::update(const at::Tensor& gradients, const at::Tensor& targets, const at::Tensor& nonfinite,
                         double learning_rate, double max_grad_norm) {
  RECORD_FUNCTION("rankwise::adamw", {});
  if (scalars_.defined()) return update_on_device(gradients, targets, nonfinite, learning_rate, max_grad_norm);
  const double scale = 1.0 / std::max(1.0, targets.item<double>());
  const double norm = gradient_norm(gradients) * scale;
  const bool applied = nonfinite.item<double>() <= 0 && std::isfinite(norm);
  if (applied) step(gradients, learning_rate, scale * clip_factor(norm, max_grad_norm));
  return at::tensor({norm, applied ? 1.0 : 0.0}, gradients.options().dtype(at::kDouble));
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
  if (!parameters_.is_cpu()) return update_by_expressions(parameters_, first_moment_, second_moment_, gradients, c);
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
