#include "trainer/model/loss.h"

#include <ATen/ATen.h>

namespace rankwise {

// Below about 2,048 rows a GPU reads the head more often than it computes with it; a CPU wants the chunk in its cache.
int64_t head_chunk_rows(at::Device device) { return device.is_cuda() ? 2048 : 128; }

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
    at::Tensor logits_mV = hidden.mm(head_VC.t()).to(sum_type);
    const at::Tensor target_logit_m1 = logits_mV.gather(1, targets_m1);
    const at::Tensor logsumexp_m1 = logits_mV.logsumexp(1, /*keepdim=*/true);
    loss.sum += (logsumexp_m1 - target_logit_m1).sum(at::kDouble).item<double>();
    if (!with_gradient) continue;
    at::Tensor gradient_mV = logits_mV.sub_(logsumexp_m1).exp_();
    gradient_mV.scatter_add_(1, targets_m1, at::full_like(target_logit_m1, -1.0));
    at::Tensor dhidden = loss.dhidden_MC.narrow(0, begin, rows);
    at::mm_out(dhidden, gradient_mV.to(hidden.scalar_type()), head_VC);
  }
  return loss;
}

}  // namespace rankwise
