// A training run, from its config to its last checkpoint.
#pragma once

#include <atomic>
#include <memory>
#include <optional>

#include "comms/watchdog.h"
#include "comms/world.h"
#include "configs/run_config.h"
#include "trainer/checkpointing.h"
#include "trainer/data/sampler.h"
#include "trainer/frozen_model.h"
#include "trainer/lora/adapter.h"
#include "trainer/memory_plan.h"
#include "trainer/optim/adamw.h"
#include "trainer/optim/schedule.h"
#include "trainer/reporter.h"
#include "trainer/training_data.h"

namespace rankwise {

enum class RunEnd {
  kFinished,
  kStopped,  // on request, after a checkpoint: exit code 75
};

class Trainer {
 public:
  // Collective over `world`: reads text, data and weights, and the checkpoint to continue from. An input error is every
  // rank's (AgreedError). `stop`: set by a signal handler; polled once a step and agreed by all ranks.
  Trainer(World& world, const RunConfig& config, const std::atomic<bool>& stop);
  ~Trainer();

  RunEnd run();

 private:
  // Sums over all ranks and micro-batches of one step, reduced in one message.
  struct StepTotals;

  void load_inputs();
  void make_plan();
  void load_model();
  void make_adapter();
  void resume();
  void check_position();  // of the checkpoint in this run
  bool train_step();      // false: a stop was requested on some rank
  double forward_backward(int64_t micro_batch, StepTotals& totals);
  void exchange(StepTotals& totals);
  double update(const StepTotals& totals);  // returns the gradient's norm
  void count_nonfinite();
  void evaluate();
  void save();
  bool due(int64_t interval) const;
  TrainingState state() { return {*adapter_, *adamw_, progress_}; }

  World& world_;
  const RunConfig& config_;
  const std::atomic<bool>& stop_;
  Reporter reporter_;
  Watchdog watchdog_;
  std::optional<TrainingText> text_;
  std::optional<TrainingData> data_;
  MemoryPlan plan_;
  std::unique_ptr<FrozenModel> model_;
  std::unique_ptr<Adapter> adapter_;
  std::unique_ptr<AdamW> adamw_;
  std::unique_ptr<Sampler> sampler_;
  std::unique_ptr<Communicator> reduction_;
  std::unique_ptr<Checkpointing> checkpointing_;
  Schedule schedule_;
  TrainerState progress_;
  int64_t nonfinite_in_a_row_ = 0;
};

}  // namespace rankwise
