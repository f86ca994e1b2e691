#include "trainer/model/loss.h"

#include <ATen/ATen.h>
#include <ATen/record_function.h>

#include "trainer/kernels/rows.h"
#include "trainer/model/products.h"

namespace rankwise {

// Below about 2,048 rows a GPU reads the head more often than it computes with it; a CPU packs it once a chunk.
int64_t head_chunk_rows(at::Device device) { return device.is_cuda() ? 2048 : 256; }

namespace {

struct RowStatistics {
  at::Tensor largest_m1, sum_m1;
};

// Turns logits into exp(logits - the row's largest).
RowStatistics exponentiate(at::Tensor& logits_mV) {
  RECORD_FUNCTION("rankwise::exponentiate", {});
  if (!fits_cpu_kernels(logits_mV)) {
    const at::Tensor largest_m1 = logits_mV.amax(1, /*keepdim=*/true);
    return {largest_m1, logits_mV.sub_(largest_m1).exp_().sum(1, /*keepdim=*/true)};
  }
  const int64_t rows = logits_mV.size(0);
  const RowStatistics made{at::empty({rows, 1}, logits_mV.options()), at::empty({rows, 1}, logits_mV.options())};
  exponentiate_rows(logits_mV.mutable_data_ptr<float>(), rows, logits_mV.size(1),
                    made.largest_m1.mutable_data_ptr<float>(), made.sum_m1.mutable_data_ptr<float>());
  return made;
}

}  // namespace

HeadLoss head_loss(const at::Tensor& hidden_MC, const at::Tensor& head_VC, const at::Tensor& targets_M,
                   bool with_gradient) {
  HeadLoss loss;
  if (with_gradient) loss.dhidden_MC = at::empty_like(hidden_MC);
  const auto sum_type = hidden_MC.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const int64_t num_rows = hidden_MC.size(0), chunk = head_chunk_rows(hidden_MC.device());
  for (int64_t begin = 0; begin < num_rows; begin += chunk) {
    const int64_t rows = std::min(chunk, num_rows - begin);
    const at::Tensor hidden = hidden_MC.narrow(0, begin, rows);
    const at::Tensor targets_m1 = targets_M.narrow(0, begin, rows).unsqueeze(1);
    const Product to_logits[] = {{hidden, head_VC.t()}};
    at::Tensor values_mV = sum_products({}, to_logits).to(sum_type);
    const at::Tensor target_logit_m1 = values_mV.gather(1, targets_m1);
    const auto [largest_m1, sum_m1] = exponentiate(values_mV);
    loss.sum += (sum_m1.log() + (largest_m1 - target_logit_m1)).sum(at::kDouble).item<double>();
    if (!with_gradient) continue;
    // The gradient of a row's loss is values / sum - 1 at the target; the division waits for the narrow side.
    values_mV.scatter_add_(1, targets_m1, sum_m1.neg());
    const Product to_hidden[] = {{values_mV.to(hidden.scalar_type()), head_VC}};
    at::Tensor dhidden = loss.dhidden_MC.narrow(0, begin, rows);
    sum_products(dhidden, {}, to_hidden);
    dhidden.div_(sum_m1);
  }
  return loss;
}

}  // namespace rankwise
