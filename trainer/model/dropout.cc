#include "trainer/model/dropout.h"

#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <vector>

#include "base/counter_random.h"
#include "trainer/model/gpu.h"

namespace rankwise {
namespace {

const uint64_t* unsigned_bits(const at::Tensor& keys) {
  return reinterpret_cast<const uint64_t*>(keys.const_data_ptr<int64_t>());
}

uint64_t threshold_of(double p) { return static_cast<uint64_t>(p * 4294967296.0); }  // of 32 random bits

// One a mask; the tokens' samples and positions make of it one a row.
std::vector<int64_t> mask_keys(const DropoutKey& key, int64_t num_layers) {
  const uint64_t step = random64(random64(key.seed, 0), static_cast<uint64_t>(key.step));
  std::vector<int64_t> keys;
  for (int64_t m = 0; m < num_layers * kNumInputGroups; ++m) {
    const uint64_t layer = random64(step, static_cast<uint64_t>(m / kNumInputGroups));
    keys.push_back(static_cast<int64_t>(random64(layer, static_cast<uint64_t>(m % kNumInputGroups))));
  }
  return keys;
}

std::vector<int64_t> samples_of_tokens(const Batch& batch) {
  std::vector<int64_t> samples(batch.ids.size(), -1);
  for (size_t s = 0; s < batch.sample_ids.size(); ++s)
    std::fill(samples.begin() + batch.sample_starts[s], samples.begin() + batch.sample_starts[s + 1],
              batch.sample_ids[s]);
  return samples;
}

void fill_keys(at::Tensor& keys_MN, const std::vector<int64_t>& masks, const std::vector<int64_t>& samples,
               const std::vector<int64_t>& positions) {
  int64_t* to = keys_MN.mutable_data_ptr<int64_t>();
  for (const int64_t mask : masks) {
    for (size_t n = 0; n < samples.size(); ++n) {
      const uint64_t sample = random64(static_cast<uint64_t>(mask), static_cast<uint64_t>(samples[n]));
      *to++ = static_cast<int64_t>(random64(sample, static_cast<uint64_t>(positions[n])));
    }
  }
}

void gpu_fill_keys(at::Tensor& keys_MN, const std::vector<int64_t>& masks, const std::vector<int64_t>& samples,
                   const std::vector<int64_t>& positions) {
  const at::Tensor masks_M = upload(masks, keys_MN.device()), samples_N = upload(samples, keys_MN.device()),
                   positions_N = upload(positions, keys_MN.device());
  launch(gpu_row_kernels().dropout_row_keys,
         GpuDropoutRowKeys{.mask_keys_M = unsigned_bits(masks_M),
                           .samples_N = samples_N.const_data_ptr<int64_t>(),
                           .positions_N = positions_N.const_data_ptr<int64_t>(),
                           .row_keys_MN = reinterpret_cast<uint64_t*>(keys_MN.mutable_data_ptr<int64_t>()),
                           .masks = keys_MN.size(0),
                           .rows = keys_MN.size(1)});
}

void fill(at::Tensor& mask_NC, const Dropout& dropout) {
  const uint64_t threshold = threshold_of(dropout.p);
  const int64_t rows = mask_NC.size(0), width = mask_NC.size(1);
  const uint64_t* keys = unsigned_bits(dropout.row_keys_N);
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, mask_NC.scalar_type(), "dropout_mask", [&] {
    const auto kept = c10::convert<scalar_t>(1.0 / (1.0 - dropout.p));
    auto* mask = mask_NC.data_ptr<scalar_t>();
    for (int64_t n = 0; n < rows; ++n) {
      for (int64_t c = 0; c < width; ++c)
        *mask++ = (random64(keys[n], static_cast<uint64_t>(c)) >> 32) < threshold ? scalar_t(0) : kept;
    }
  });
}

void gpu_fill(at::Tensor& mask_NC, const Dropout& dropout) {
  launch(gpu_row_kernels().dropout_mask, GpuDropoutMask{.type = gpu_type(mask_NC),
                                                        .dropout = gpu_dropout(dropout),
                                                        .mask_NC = mask_NC.mutable_data_ptr(),
                                                        .rows = mask_NC.size(0),
                                                        .columns = mask_NC.size(1)});
}

}  // namespace

Dropout StepDropout::of(int64_t layer, InputGroup group) const {
  if (!row_keys_MN.defined()) return {};
  return {row_keys_MN.select(0, layer * kNumInputGroups + group), p};
}

StepDropout step_dropout(const DropoutKey& key, int64_t num_layers, const Batch& batch, double p, at::Device device) {
  if (p == 0) return {};
  const auto masks = mask_keys(key, num_layers), samples = samples_of_tokens(batch);
  at::Tensor keys_MN = at::empty({num_layers * kNumInputGroups, batch.num_tokens()},
                                 at::TensorOptions().dtype(at::kLong).device(device));
  (device.is_cuda() ? gpu_fill_keys : fill_keys)(keys_MN, masks, samples, batch.positions);
  return {std::move(keys_MN), p};
}

at::Tensor dropout_mask(const Dropout& dropout, int64_t width, const at::TensorOptions& options) {
  at::Tensor mask_NC = at::empty({dropout.row_keys_N.size(0), width}, options);
  if (fits_gpu_kernels(mask_NC)) {
    gpu_fill(mask_NC, dropout);
    return mask_NC;
  }
  at::Tensor here_NC = mask_NC.is_cpu() ? mask_NC : at::empty_like(mask_NC, at::kCPU);
  fill(here_NC, {dropout.row_keys_N.cpu(), dropout.p});
  return here_NC.to(options.device());
}

GpuDropout gpu_dropout(const Dropout& dropout) {
  return {unsigned_bits(dropout.row_keys_N), threshold_of(dropout.p), static_cast<float>(1.0 / (1.0 - dropout.p))};
}

}  // namespace rankwise
