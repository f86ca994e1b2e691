#include "trainer/model/dropout.h"

#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>

#include "base/counter_random.h"
#include "trainer/model/gpu.h"

namespace rankwise {
namespace {

uint64_t threshold_of(double p) { return static_cast<uint64_t>(p * 4294967296.0); }  // of 32 random bits

// One a token: what the mask of its row is a function of.
std::vector<uint64_t> row_keys(const DropoutKey& key, const Batch& batch) {
  uint64_t base = random64(key.seed, 0);
  for (const int64_t word : {key.step, key.layer, key.input_group}) base = random64(base, static_cast<uint64_t>(word));
  std::vector<uint64_t> keys(batch.ids.size());
  for (size_t s = 0; s < batch.sample_ids.size(); ++s) {
    const uint64_t sample = random64(base, static_cast<uint64_t>(batch.sample_ids[s]));
    for (auto n = static_cast<size_t>(batch.sample_starts[s]); n < static_cast<size_t>(batch.sample_starts[s + 1]); ++n)
      keys[n] = random64(sample, static_cast<uint64_t>(batch.positions[n]));
  }
  return keys;
}

void fill(at::Tensor& mask_NC, const std::vector<uint64_t>& keys, double p) {
  const uint64_t threshold = threshold_of(p);
  const int64_t width = mask_NC.size(1);
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, mask_NC.scalar_type(), "dropout_mask", [&] {
    const auto kept = c10::convert<scalar_t>(1.0 / (1.0 - p));
    auto* mask = mask_NC.data_ptr<scalar_t>();
    for (const uint64_t key : keys) {
      for (int64_t c = 0; c < width; ++c)
        *mask++ = (random64(key, static_cast<uint64_t>(c)) >> 32) < threshold ? scalar_t(0) : kept;
    }
  });
}

void gpu_fill(at::Tensor& mask_NC, const DropoutRows& rows) {
  launch(gpu_row_kernels().dropout_mask,
         GpuDropoutMask{.type = gpu_type(mask_NC),
                        .row_keys_N = reinterpret_cast<const uint64_t*>(rows.keys_N.const_data_ptr<int64_t>()),
                        .mask_NC = mask_NC.mutable_data_ptr(),
                        .rows = mask_NC.size(0),
                        .columns = mask_NC.size(1),
                        .threshold = rows.threshold,
                        .kept = rows.kept});
}

}  // namespace

DropoutRows dropout_rows(const DropoutKey& key, const Batch& batch, double p, at::Device device) {
  const auto keys = row_keys(key, batch);
  return {upload(std::vector<int64_t>(keys.begin(), keys.end()), device), threshold_of(p),
          static_cast<float>(1.0 / (1.0 - p))};
}

at::Tensor dropout_mask(const DropoutKey& key, const Batch& batch, int64_t width, double p,
                        const at::TensorOptions& options) {
  at::Tensor mask_NC = at::empty({batch.num_tokens(), width}, options);
  if (fits_gpu_kernels(mask_NC)) {
    gpu_fill(mask_NC, dropout_rows(key, batch, p, mask_NC.device()));
    return mask_NC;
  }
  at::Tensor here_NC = mask_NC.is_cpu() ? mask_NC : at::empty_like(mask_NC, at::kCPU);
  fill(here_NC, row_keys(key, batch), p);
  return here_NC.to(options.device());
}

}  // namespace rankwise
