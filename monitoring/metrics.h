// The numbers that a run shows to Prometheus: every name, label and series of them.
//
// All series exist from the constructor on and none is added later, so their number is constant over a run. A label is
// the rank or a word of the enums below, never a path, a name or an error text. What belongs to one process (memory,
// phases, step time, traffic) carries `rank`; what belongs to the run (loss, tokens, checkpoints) does not, and rank 0
// alone serves it.
//
// Counters count what this process did: after a resume they start at 0 again, and rankwise_start_step says where.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "monitoring/step_metrics.h"

namespace rankwise {

enum class Phase { kData, kForward, kBackward, kGather, kAllreduce, kOptimizer, kCheckpoint, kEval };
enum class CommOp { kAllReduce, kAllGather };
enum class Transport { kMpi, kNccl, kPeer };  // kPeer: read from another GPU's memory
enum class MemoryKind {
  kBaseShard,    // this rank's part of the frozen base, replicated norms and biases included
  kGathered,     // units of the base that are whole at the moment
  kAdapter,      // masters and compute copies
  kGradients,    // the flat bucket
  kOptimizer,    // moments
  kActivations,  // what forward keeps for backward
  kAllocator,    // all live tensors
  kReserved,     // held by a device's caching allocator
  kProcess,      // resident set of the process
};
enum class SkipReason { kTooLong, kNoTarget };

inline constexpr size_t kNumPhases = static_cast<size_t>(Phase::kEval) + 1;
inline constexpr size_t kNumMemoryKinds = static_cast<size_t>(MemoryKind::kProcess) + 1;
const char* name_of(Phase phase);      // as the label has it: "data"
const char* name_of(MemoryKind kind);  // "base_shard"

struct MemoryUse {
  int64_t live_bytes = 0;
  int64_t peak_bytes = 0;
};

class ScopedPhase;

// Thread-safe, but for ScopedPhase. No method blocks on a scrape: scrapes are answered from the last text().
class Metrics {
 public:
  struct Options {
    int rank = 0;
    int world_size = 1;
    std::string version = "unknown";  // label of rankwise_build_info: letters, digits and "._+-", at most 64
  };
  explicit Metrics(const Options& options);  // throws Error for a version of another form
  ~Metrics();
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;

  void observe_step(const StepMetrics& step);
  // 0 .. 1; of steps, or of epochs where the number of steps is not known.
  void set_progress_ratio(double ratio);
  // While active, a rankwise_train_last_step_timestamp_seconds that stands still means a stalled run. Becoming active
  // sets that time to now.
  void set_active(bool active);
  void set_eval_loss(double loss);
  void observe_resume(int64_t start_step);  // continued from a checkpoint of that many steps

  void observe_checkpoint_saved(int64_t step, double seconds);
  void observe_checkpoint_failed();

  void add_phase_seconds(Phase phase, double seconds);
  void add_comm_bytes(CommOp op, Transport transport, int64_t bytes);  // received by this rank
  void add_skipped_samples(SkipReason reason, int64_t count);
  void set_memory(MemoryKind kind, int64_t current_bytes, int64_t peak_bytes);
  void set_process_memory();  // kProcess, as the kernel counts it

  double phase_seconds(Phase phase) const;
  MemoryUse memory(MemoryKind kind) const;

  // Everything, in the text format 0.0.4, families and series in a fixed order.
  std::string text() const;

 private:
  friend class ScopedPhase;
  struct Impl;
  std::unique_ptr<Impl> impl_;
  ScopedPhase* innermost_phase_ = nullptr;
};

// Adds the time of its scope to a phase. A phase inside another one is taken out of the outer one, so that the phases
// sum to the wall time. Opened and closed by one thread at a time, in the order of a stack.
class ScopedPhase {
 public:
  ScopedPhase(Metrics& metrics, Phase phase);
  ~ScopedPhase();
  ScopedPhase(const ScopedPhase&) = delete;
  ScopedPhase& operator=(const ScopedPhase&) = delete;

  // `seconds` of this scope so far, measured elsewhere, belong to another phase (a gather inside forward).
  void give(Phase phase, double seconds);

 private:
  using Clock = std::chrono::steady_clock;
  Metrics& metrics_;
  Phase phase_;
  ScopedPhase* outer_;
  Clock::time_point start_ = Clock::now();
  Clock::duration inner_time_{};
};

}  // namespace rankwise
