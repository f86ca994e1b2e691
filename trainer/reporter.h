// Everything that a run says while it goes: the metrics, the page for people, the terminal, train_log.jsonl and
// loss.svg. On ranks other than 0 it keeps the metrics and writes nothing.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "comms/world.h"
#include "configs/run_config.h"
#include "monitoring/endpoint.h"
#include "monitoring/metrics.h"
#include "monitoring/progress.h"
#include "monitoring/run_log.h"
#include "monitoring/run_view.h"
#include "trainer/memory_plan.h"

namespace rankwise {

// What this rank has exchanged so far.
struct Traffic {
  uint64_t gathered_bytes = 0, reduced_bytes = 0;
  std::string_view gather_transport, reduce_transport;  // as Communicator::transport and SharedParts::transport
};

class Reporter {
 public:
  // Binds the endpoint on rank 0: a taken port is a warning, or ConfigError where monitoring.required is true. Keeps a
  // reference to both.
  Reporter(World& world, const RunConfig& config);
  ~Reporter();

  // A line with its duration, for the stations before the first step.
  ProgressPhase phase(std::string_view name);
  // A line that stays, and what it says beside that to programs.
  void note(const std::string& text, const LogFacts& facts = {});
  void planned(const MemoryPlan& plan);

  // Collective, as the page shows the memory of all ranks: begin, eval_done, checkpoint_saved.
  // Opens log and terminal for a run of total_steps that begins behind start_step.
  void begin(int64_t start_step, int64_t total_steps);
  void step_done(const StepMetrics& step, bool logged, const Traffic& traffic);
  void evaluating() { enter(RunState::kEvaluating); }
  void eval_done(int64_t step, double loss, int64_t target_tokens);
  void saving() { enter(RunState::kSaving); }
  void checkpoint_saved(int64_t step, double seconds);
  // kFinished or kStopped. These two wait up to two seconds for a page that is open to take this last news.
  void end(RunState state);
  void failed(const std::string& message);

  Metrics& metrics() { return metrics_; }
  const RunLog& log() const { return log_; }
  void sync() const { log_.sync(); }

 private:
  using Clock = std::chrono::steady_clock;

  void open_endpoint();
  void enter(RunState state);
  void count(const Traffic& traffic);
  void measure_memory();
  void exchange_memory();
  void publish();
  void publish_run();

  World& world_;
  const RunConfig& config_;
  bool speaks_;  // rank 0
  Terminal terminal_;
  Metrics metrics_;
  RunView view_;
  std::unique_ptr<Endpoint> endpoint_;
  Clock::time_point run_published_;
  std::unique_ptr<Progress> progress_;
  RunLog log_;
  Traffic reported_;
};

}  // namespace rankwise
