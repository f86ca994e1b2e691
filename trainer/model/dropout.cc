#include "trainer/model/dropout.h"

#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>

#include "base/counter_random.h"

namespace rankwise {
at::Tensor dropout_mask(const DropoutKey& key, const Batch& batch, int64_t width, double p, at::ScalarType dtype) {
  const int64_t num_tokens = batch.num_tokens();
  at::Tensor mask_NC = at::empty({num_tokens, width}, at::TensorOptions().dtype(dtype));
  uint64_t base = random64(key.seed, 0);
  for (const int64_t word : {key.step, key.layer, key.input_group}) base = random64(base, static_cast<uint64_t>(word));
  const auto threshold = static_cast<uint64_t>(p * 4294967296.0);  // of 32 random bits
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, dtype, "dropout_mask", [&] {
    const auto kept = c10::convert<scalar_t>(1.0 / (1.0 - p));
    auto* mask = mask_NC.data_ptr<scalar_t>();
    int64_t sample = 0;
    for (int64_t n = 0; n < num_tokens; ++n) {
      while (n >= batch.sample_starts[static_cast<size_t>(sample) + 1]) ++sample;
      const uint64_t row =
          random64(random64(base, static_cast<uint64_t>(batch.sample_ids[static_cast<size_t>(sample)])),
                   static_cast<uint64_t>(batch.positions[static_cast<size_t>(n)]));
      for (int64_t c = 0; c < width; ++c) {
        mask[n * width + c] = (random64(row, static_cast<uint64_t>(c)) >> 32) < threshold ? scalar_t(0) : kept;
      }
    }
  });
  return mask_NC;
}

}  // namespace rankwise
