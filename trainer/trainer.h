// A training run, from its config to its last checkpoint.
#pragma once

#include <atomic>
#include <chrono>
#include <deque>
#include <memory>
#include <optional>

#include "comms/watchdog.h"
#include "comms/world.h"
#include "configs/run_config.h"
#include "trainer/checkpointing.h"
#include "trainer/data/sampler.h"
#include "trainer/devices.h"
#include "trainer/frozen_model.h"
#include "trainer/lora/adapter.h"
#include "trainer/memory_plan.h"
#include "trainer/optim/adamw.h"
#include "trainer/optim/schedule.h"
#include "trainer/phase_clock.h"
#include "trainer/reporter.h"
#include "trainer/train_step.h"
#include "trainer/training_data.h"
#include "trainer/weights/base_check.h"

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
  struct StartedStep {
    double learning_rate;
    PendingStep step;
  };

  RunEnd train();
  RunEnd end(RunState state);
  void load_inputs();
  void make_plan();
  void load_model();
  void make_adapter();
  void note_composed();
  void use_graphs();
  void note_attention(const Batch& batch);
  void note_graphs();
  void resume();
  void check_position();  // of the checkpoint in this run
  void start_step(int64_t step);
  void forward_backward(int64_t step, int64_t micro_batch);
  void settle();  // reads the oldest step that was started
  void advance(const StepResult& result, double learning_rate);
  RankReport rank_report();
  void count_nonfinite(const StepResult& result);
  void check_integrity(bool of_all);
  void evaluate();
  void save();
  static bool due(int64_t steps_done, int64_t interval);
  TrainingState state() { return {*adapter_, *adamw_, progress_}; }

  World& world_;
  const RunConfig& config_;
  const std::atomic<bool>& stop_;
  Watchdog watchdog_;
  Devices devices_;
  PhaseClock clock_;
  Reporter reporter_;
  c10::ScalarType dtype_;  // of activations and frozen weights
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
  std::unique_ptr<BaseCheck> base_check_;  // null: off
  std::unique_ptr<TrainStep> step_;
  std::deque<StartedStep> pending_;                // started and not read; progress_ is behind by as many
  std::chrono::steady_clock::time_point settled_;  // when the last step was read, or what came after it was over
  bool stop_agreed_ = false;
  int64_t nonfinite_in_a_row_ = 0;
  bool attention_noted_ = false, graphs_noted_ = false, records_graphs_ = false;
};

}  // namespace rankwise
