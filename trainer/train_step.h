// One optimizer step over all ranks: micro-batches forward and backward, one exchange, one update. On a device nothing
// in it waits for the device: whether the step counts, and by what its gradients are scaled, is decided there, and the
// host reads the numbers when they are ready. One thread.
#pragma once

#include <algorithm>
#include <array>
#include <functional>
#include <memory>

#include "comms/communicator.h"
#include "trainer/lora/adapter.h"
#include "trainer/model/decoder.h"
#include "trainer/optim/adamw.h"

namespace rankwise {

// Over all ranks and micro-batches.
struct StepResult {
  double loss_sum = 0;  // over target tokens
  int64_t target_tokens = 0, input_tokens = 0, samples = 0;
  bool nonfinite_here = false;  // a loss or gradient of this rank
  int64_t nonfinite_ranks = 0;
  bool stop = false;         // asked for on some rank
  double gradient_norm = 0;  // of the loss's mean, before clipping
  bool applied = false;      // false: left out, as something was not finite

  double mean_loss() const { return loss_sum / std::max<double>(1.0, static_cast<double>(target_tokens)); }
};

// A step that was started.
class PendingStep {
 public:
  PendingStep(PendingStep&&) noexcept;
  PendingStep& operator=(PendingStep&&) noexcept;
  ~PendingStep();
  // Waits for the device; CommError if a rank is gone meanwhile.
  StepResult read();

 private:
  friend class TrainStep;
  struct State;
  explicit PendingStep(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

class TrainStep {
 public:
  // All are kept by the caller. `reduction`: all ranks, for tensors where the adapter lies.
  TrainStep(Decoder& model, Adapter& adapter, AdamW& adamw, Communicator& reduction, double max_grad_norm);

  // A batch without targets is a stand-in that keeps this rank in step with the others.
  void add(const Batch& micro_batch, const StepContext& context, const std::function<void(ModelPhase)>& on_phase);
  // Collective.
  void exchange(bool stop_requested);
  PendingStep update(double learning_rate);
  void check();  // CommError if another rank is gone; for whoever waits for the device

 private:
  friend class PendingStep;
  enum Total { kLoss, kTargets, kInputs, kSamples, kNonfinite, kStop, kNumTotals };  // sums, reduced in one message

  Decoder& model_;
  Adapter& adapter_;
  AdamW& adamw_;
  Communicator& reduction_;
  double max_grad_norm_;
  bool begun_ = false;
  std::array<int64_t, kNumTotals> counts_{};  // this rank's, so far
  at::Tensor loss_;                           // likewise, on the device
  at::Tensor nonfinite_here_;
  at::Tensor totals_;
};

}  // namespace rankwise
