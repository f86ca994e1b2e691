// The numbers that a run shows to Prometheus: every name, label and series of them.
//
// All series exist from the constructor on and none is added later, so their number is constant over a run. A label is
// the rank, what rankwise_rank_info says of it, or a word of the enums below, never a path or an error text. What
// belongs to one process (memory, phases, traffic) carries `rank`; what belongs to the run (loss, tokens, step time,
// checkpoints) does not, and is on the page of rank 0 alone.
//
// Counters count what this process did: after a resume they start at 0 again, and rankwise_start_step says where.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "monitoring/step_metrics.h"

namespace rankwise {

// Of a rank's time; they do not overlap, and between checkpoints and evaluations they make up its steps.
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

// Thread-safe, each set_ by one thread. No method blocks on a scrape: scrapes are answered from the last text().
class Metrics {
 public:
  struct Options {
    int rank = 0;
    int local_rank = 0;
    int world_size = 1;
    std::string host = "localhost";
    std::string gpu_uuid = {};  // "GPU-...", by which the series of NVIDIA's DCGM exporter are joined; CPUs: empty
    std::string version = "unknown";  // label of rankwise_build_info: letters, digits and "._+-", at most 64
  };
  explicit Metrics(const Options& options);  // throws Error for a version of another form
  ~Metrics();
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;

  void observe_step(const StepMetrics& step);
  void observe_integrity_check();  // that found nothing wrong
  // 0 .. 1; of steps, or of epochs where the number of steps is not known.
  void set_progress_ratio(double ratio);
  // While active, a rankwise_train_last_step_timestamp_seconds that stands still means a stalled run. Becoming active
  // sets that time to now.
  void set_active(bool active);
  void set_eval_loss(double loss);
  void observe_resume(int64_t start_step);  // continued from a checkpoint of that many steps

  void observe_end(bool finished, double seconds);  // of this process; finished: all steps of the run are done

  void observe_checkpoint_saved(int64_t step, double seconds);
  void observe_checkpoint_failed();

  void add_phase_seconds(Phase phase, double seconds);
  void add_comm_bytes(CommOp op, Transport transport, int64_t bytes);  // received by this rank
  void add_skipped_samples(SkipReason reason, int64_t count);
  void set_memory(MemoryKind kind, int64_t current_bytes, int64_t peak_bytes);
  void set_process_memory();  // kProcess, as the kernel counts it
  // Times, since the process began, that the device's allocator gave back all it kept and asked again.
  void set_allocator_retries(int64_t total);

  double phase_seconds(Phase phase) const;
  MemoryUse memory(MemoryKind kind) const;

  // This rank's page, in the text format 0.0.4, families and series in a fixed order; at most kMaxPageBytes.
  static constexpr size_t kMaxPageBytes = size_t{1} << 16;
  std::string text() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace rankwise
