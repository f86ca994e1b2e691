#include "trainer/model/rope.h"

#include <ATen/ATen.h>
#include <ATen/record_function.h>

#include <algorithm>
#include <bit>
#include <numbers>

#include "trainer/model/gpu.h"

namespace rankwise {
namespace {

// Long wavelengths are slowed by `factor`, short ones kept, those between blended.
at::Tensor scale_llama3(const at::Tensor& frequency_D, const Llama3RopeScaling& scaling) {
  const auto context = static_cast<double>(scaling.original_max_position_embeddings);
  const double longest_kept = context / scaling.high_freq_factor, shortest_slowed = context / scaling.low_freq_factor;
  const at::Tensor wavelength_D = 2 * std::numbers::pi / frequency_D;
  const at::Tensor slowed_D = frequency_D / scaling.factor;
  const at::Tensor blend_D =
      (context / wavelength_D - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor);
  const at::Tensor between_D = (1 - blend_D) * slowed_D + blend_D * frequency_D;
  return at::where(wavelength_D > shortest_slowed, slowed_D,
                   at::where(wavelength_D < longest_kept, frequency_D, between_D));
}

}  // namespace

Rope::Rope(const ModelConfig& config) {
  const at::Tensor exponent_D =
      at::arange(0, config.head_dim, 2, at::kLong).to(at::kFloat) / static_cast<double>(config.head_dim);
  inverse_frequency_D_ = 1.0 / at::pow(config.rope_theta, exponent_D);
  if (config.linear_rope_factor) inverse_frequency_D_ = inverse_frequency_D_ / *config.linear_rope_factor;
  if (config.rope_scaling) inverse_frequency_D_ = scale_llama3(inverse_frequency_D_, *config.rope_scaling);
}

void Rope::cover(int64_t num_positions, const at::TensorOptions& options) {
  if (cos_P1D_.defined() && cos_P1D_.size(0) >= num_positions && cos_P1D_.options().type_equal(options)) return;
  const auto table_size = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(num_positions)));
  const at::Tensor angle_P1D = at::outer(at::arange(table_size, at::kFloat), inverse_frequency_D_).unsqueeze_(1);
  cos_P1D_ = angle_P1D.cos().to(options);
  sin_P1D_ = angle_P1D.sin().to(options);
}

RopeAngles Rope::angles(const std::vector<int64_t>& positions, at::ScalarType dtype, at::Device device) {
  cover(std::ranges::max(positions) + 1, at::TensorOptions().dtype(dtype).device(device));
  const at::Tensor positions_N = upload(positions, device);
  return {cos_P1D_.index_select(0, positions_N), sin_P1D_.index_select(0, positions_N)};
}

void apply_rope(at::Tensor x_NHD, const RopeAngles& angles, bool inverse) {
  RECORD_FUNCTION("rankwise::rope", {});
  if (fits_gpu_kernels(angles.cos_N1D) && x_NHD.scalar_type() == angles.cos_N1D.scalar_type() && x_NHD.stride(2) == 1 &&
      x_NHD.stride(1) == x_NHD.size(2)) {
    return launch(gpu_row_kernels().rope, GpuRope{.type = gpu_type(x_NHD),
                                                  .x_NHD = x_NHD.mutable_data_ptr(),
                                                  .cos_ND = angles.cos_N1D.const_data_ptr(),
                                                  .sin_ND = angles.sin_N1D.const_data_ptr(),
                                                  .rows = x_NHD.size(0),
                                                  .stride = x_NHD.stride(0),
                                                  .heads = x_NHD.size(1),
                                                  .head_dim = x_NHD.size(2),
                                                  .inverse = inverse});
  }
  const auto halves = x_NHD.chunk(2, -1);
  at::Tensor first = halves[0], second = halves[1];
  const double sign = inverse ? -1.0 : 1.0;
  const at::Tensor first_before = first.clone();
  first.mul_(angles.cos_N1D).addcmul_(second, angles.sin_N1D, -sign);
  second.mul_(angles.cos_N1D).addcmul_(first_before, angles.sin_N1D, sign);
}

}  // namespace rankwise
