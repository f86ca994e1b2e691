#include "trainer/train_step.h"

#include <ATen/ATen.h>
#include <c10/core/Event.h>

#include <chrono>
#include <optional>
#include <thread>

#include "trainer/model/gpu.h"
#include "trainer/optim/clip.h"
#include "trainer/weights/current_stream.h"

namespace rankwise {

struct PendingStep::State {
  at::Tensor numbers;              // totals, then AdamW's, then this rank's own: on the host, once `done`
  std::optional<c10::Event> done;  // absent: they are there
  TrainStep* step = nullptr;
};

PendingStep::PendingStep(std::unique_ptr<State> state) : state_(std::move(state)) {}
PendingStep::PendingStep(PendingStep&&) noexcept = default;
PendingStep& PendingStep::operator=(PendingStep&&) noexcept = default;
PendingStep::~PendingStep() = default;

StepResult PendingStep::read() {
  while (state_->done && !state_->done->query()) {
    state_->step->check();
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  const auto* n = state_->numbers.const_data_ptr<double>();
  const auto count = [&](int index) { return static_cast<int64_t>(n[index]); };
  const auto* adamw = n + TrainStep::kNumTotals;
  return {.loss_sum = n[TrainStep::kLoss],
          .target_tokens = count(TrainStep::kTargets),
          .input_tokens = count(TrainStep::kInputs),
          .samples = count(TrainStep::kSamples),
          .nonfinite_here = adamw[AdamW::kNumOutcomes] > 0,
          .nonfinite_ranks = count(TrainStep::kNonfinite),
          .stop = n[TrainStep::kStop] > 0,
          .gradient_norm = adamw[AdamW::kNorm],
          .applied = adamw[AdamW::kApplied] > 0};
}

TrainStep::TrainStep(Decoder& model, Adapter& adapter, AdamW& adamw, Communicator& reduction, double max_grad_norm)
    : model_(model), adapter_(adapter), adamw_(adamw), reduction_(reduction), max_grad_norm_(max_grad_norm) {}

void TrainStep::check() {
  reduction_.check();
  model_.check();
}

void TrainStep::add(const Batch& batch, const StepContext& context, const std::function<void(ModelPhase)>& on_phase) {
  if (!begun_) {
    adapter_.gradients().zero_();
    counts_ = {};
    loss_ = at::zeros({}, adapter_.gradients().options().dtype(at::kDouble));
    begun_ = true;
  }
  if (batch.num_targets() > 0) {
    counts_[kInputs] += batch.num_tokens();
    counts_[kTargets] += batch.num_targets();
    counts_[kSamples] += batch.num_samples();
  }
  loss_.add_(model_.forward_backward(batch, context, on_phase));
}

void TrainStep::exchange(bool stop_requested) {
  at::Tensor& gradients = adapter_.gradients();
  counts_[kStop] = stop_requested ? 1 : 0;
  totals_ = upload({counts_.begin(), counts_.end()}, gradients.device()).to(at::kDouble);
  nonfinite_here_ = (loss_ + sum_of_squares(gradients)).isfinite().logical_not_().to(at::kDouble);
  totals_.select(0, kLoss).copy_(loss_);
  totals_.select(0, kNonfinite).copy_(nonfinite_here_);
  Work scalars = reduction_.all_reduce(totals_, Reduce::kSum);
  Work bucket = reduction_.all_reduce(gradients, Reduce::kSum);
  scalars.wait();
  bucket.wait();
  begun_ = false;
}

PendingStep TrainStep::update(double learning_rate) {
  const at::Tensor outcome =
      adamw_.update(adapter_.gradients(), totals_[kTargets], totals_[kNonfinite], learning_rate, max_grad_norm_);
  adapter_.refresh_compute_copies();
  const at::Tensor numbers = at::cat({totals_, outcome, nonfinite_here_.view({1})});
  auto state = std::make_unique<PendingStep::State>();
  if (numbers.is_cpu()) {
    state->numbers = numbers;
  } else {
    state->numbers = at::empty(numbers.sizes(), at::TensorOptions().dtype(at::kDouble).pinned_memory(true));
    state->numbers.copy_(numbers, /*non_blocking=*/true);
    state->done.emplace(numbers.device().type());
    state->done->record(current_stream(numbers.device()));
    state->step = this;
  }
  return PendingStep(std::move(state));
}

}  // namespace rankwise
