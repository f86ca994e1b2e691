#include "trainer/model/loss.h"

#include <ATen/ATen.h>
#include <ATen/record_function.h>

#include <algorithm>
#include <vector>

#include "trainer/kernels/rows.h"
#include "trainer/model/gpu.h"
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

// What a chunk's logits turn into: the gradient of the sum of losses is values / divisor.
struct LogitGradient {
  at::Tensor loss;        // float64 scalar
  at::Tensor values_mV;   // in the logits' memory where that is wide enough
  at::Tensor divisor_m1;  // undefined: 1
};

// The division waits for the narrow side.
LogitGradient cross_entropy(const at::Tensor& logits_mV, const at::Tensor& targets_m, bool with_gradient) {
  RECORD_FUNCTION("rankwise::cross_entropy", {});
  const at::Tensor targets_m1 = targets_m.unsqueeze(1);
  at::Tensor values_mV = logits_mV.to(logits_mV.scalar_type() == at::kDouble ? at::kDouble : at::kFloat);
  const at::Tensor target_logit_m1 = values_mV.gather(1, targets_m1);
  const auto [largest_m1, sum_m1] = exponentiate(values_mV);
  const at::Tensor loss = (sum_m1.log() + (largest_m1 - target_logit_m1)).sum(at::kDouble);
  if (with_gradient) values_mV.scatter_add_(1, targets_m1, sum_m1.neg());
  return {loss, values_mV, sum_m1};
}

LogitGradient gpu_cross_entropy(const at::Tensor& logits_mV, const at::Tensor& targets_m, bool with_gradient) {
  RECORD_FUNCTION("rankwise::cross_entropy", {});
  const at::Tensor loss_m = at::empty({logits_mV.size(0)}, logits_mV.options().dtype(at::kFloat));
  launch(gpu_row_kernels().cross_entropy, GpuCrossEntropy{.type = gpu_type(logits_mV),
                                                          .logits_NV = logits_mV.mutable_data_ptr(),
                                                          .targets_N = targets_m.const_data_ptr<int64_t>(),
                                                          .loss_N = loss_m.mutable_data_ptr<float>(),
                                                          .rows = logits_mV.size(0),
                                                          .columns = logits_mV.size(1),
                                                          .with_gradient = with_gradient});
  return {loss_m.sum(at::kDouble), logits_mV, {}};
}

// The products whose sum is gradient head. float32 on a GPU in pieces of the vocabulary: adding its tens of thousands
// of products one after another, as cuBLAS may, costs a digit (on SmolLM2's 49,152 the adapter's gradients are off by
// 2e-5, in pieces by 3e-6).
std::vector<Product> to_hidden(const at::Tensor& gradient_mV, const at::Tensor& head_VC) {
  if (!gradient_mV.is_cuda() || gradient_mV.scalar_type() != at::kFloat) return {{gradient_mV, head_VC}};
  constexpr int64_t kPiece = 4096;
  std::vector<Product> pieces;
  for (int64_t begin = 0; begin < head_VC.size(0); begin += kPiece) {
    const int64_t count = std::min(kPiece, head_VC.size(0) - begin);
    pieces.push_back({gradient_mV.narrow(1, begin, count), head_VC.narrow(0, begin, count)});
  }
  return pieces;
}

}  // namespace

HeadLoss head_loss(const at::Tensor& hidden_MC, const at::Tensor& head_VC, const at::Tensor& targets_M,
                   bool with_gradient) {
  HeadLoss loss{at::zeros({}, hidden_MC.options().dtype(at::kDouble)), {}};
  if (with_gradient) loss.dhidden_MC = at::empty_like(hidden_MC);
  const int64_t num_rows = hidden_MC.size(0), chunk = head_chunk_rows(hidden_MC.device());
  for (int64_t begin = 0; begin < num_rows; begin += chunk) {
    const int64_t rows = std::min(chunk, num_rows - begin);
    const at::Tensor hidden = hidden_MC.narrow(0, begin, rows), targets_m = targets_M.narrow(0, begin, rows);
    const Product to_logits[] = {{hidden, head_VC.t()}};
    at::Tensor logits_mV = sum_products({}, to_logits);
    const bool on_gpu = logits_mV.is_cuda() && logits_mV.scalar_type() != at::kDouble;
    const LogitGradient gradient = on_gpu ? gpu_cross_entropy(logits_mV, targets_m, with_gradient)
                                          : cross_entropy(logits_mV, targets_m, with_gradient);
    loss.sum.add_(gradient.loss);
    if (!with_gradient) continue;
    at::Tensor dhidden = loss.dhidden_MC.narrow(0, begin, rows);
    sum_products(dhidden, {}, to_hidden(gradient.values_mV.to(hidden.scalar_type()), head_VC));
    if (gradient.divisor_m1.defined()) dhidden.div_(gradient.divisor_m1);
  }
  return loss;
}

}  // namespace rankwise
