// What the page of a run shows, and /run.json, which carries it there:
//   {"state":"training", "error":"", "name":.., "model":.., "version":.., "world_size":2, "time":1769000000.5,
//    "step":104, "start_step":0, "total_steps":200, "epoch":.., "learning_rate":.., "gradient_norm":..,
//    "tokens_per_second":.., "step_seconds":..,
//    "loss":[[step,value],..], "eval_loss":[..], "throughput":[..],      thinned; null: not finite
//    "phases":{"data":seconds,..},                                       of rank 0, since its start
//    "memory_kinds":["base_shard",..], "planned_bytes":[..],             in the order of the kinds; null: no plan
//    "ranks":[{"rank":0,"live_bytes":[..],"peak_bytes":[..]},..],        the ranks whose figures are known
//    "checkpoints":[{"step":100,"seconds":0.4,"time":..},..],            the last of this process
//    "configuration":"..", "log":[{"time":..,"text":".."},..]}
// Texts may hold anything: who shows them takes them as text. A few hundred kilobytes at most.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "monitoring/log_tail.h"
#include "monitoring/metrics.h"
#include "monitoring/step_metrics.h"
#include "monitoring/thinned_curve.h"

namespace rankwise {

enum class RunState { kStarting, kTraining, kEvaluating, kSaving, kFinished, kStopped, kFailed };

struct RankMemory {
  int rank = 0;
  std::array<MemoryUse, kNumMemoryKinds> kinds{};
};

struct SavedCheckpoint {
  int64_t step = 0;
  double seconds = 0;
  double time = 0;  // Unix, in seconds
};

struct RunView {
  static constexpr size_t kMaxCheckpoints = 100;

  RunState state = RunState::kStarting;
  std::string error;  // why it failed
  std::string name, model, version, configuration;
  int world_size = 1;
  int64_t start_step = 0, total_steps = 0;
  StepMetrics last_step;
  ThinnedCurve loss, eval_loss, tokens_per_second;
  std::array<double, kNumPhases> phase_seconds{};
  std::array<std::optional<int64_t>, kNumMemoryKinds> planned_bytes{};
  std::vector<RankMemory> ranks;  // ascending
  std::deque<SavedCheckpoint> checkpoints;
  LogTail log;

  void add_step(const StepMetrics& step);
  void add_checkpoint(int64_t step, double seconds);  // now; beyond kMaxCheckpoints the oldest goes
};

std::string run_json(const RunView& view);

}  // namespace rankwise
