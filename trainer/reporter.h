// Everything that a run says while it goes: the metrics, the page for people, the terminal, train_log.jsonl, loss.svg
// and, at the end, metrics.prom. Other ranks than 0 keep and serve metrics, and write nothing.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/shared_text.h"
#include "comms/world.h"
#include "configs/run_config.h"
#include "monitoring/endpoint.h"
#include "monitoring/metrics.h"
#include "monitoring/progress.h"
#include "monitoring/run_log.h"
#include "monitoring/run_view.h"
#include "trainer/memory_plan.h"
#include "trainer/phase_clock.h"

namespace rankwise {

// What this rank has done: the time since the last report, and what was exchanged so far.
struct RankReport {
  PhaseSeconds phase_seconds{};
  uint64_t gathered_bytes = 0, reduced_bytes = 0;
  std::string_view gather_transport, reduce_transport;  // as Communicator::transport and SharedParts::transport
};

// Of this process, for its last line.
struct RunTotals {
  int64_t input_tokens = 0;
  double step_seconds = 0;
  int64_t peak_memory_bytes = 0;
};

class Reporter {
 public:
  // Collective. Binds the endpoint, on one rank of each host or on all: a taken port is a warning, or all ranks' error
  // where monitoring.required is true. Keeps a reference to world and config.
  Reporter(World& world, const RunConfig& config, const std::string& gpu_uuid);
  ~Reporter();

  // A line with its duration, for the stations before the first step.
  ProgressPhase phase(std::string_view name);
  // A line that stays, and what it says beside that to programs.
  void note(const std::string& text, const LogFacts& facts = {});
  void planned(const MemoryPlan& plan);

  // Collective, as the page shows the memory of all ranks: begin, eval_done, checkpoint_saved. From begin on a page of
  // metrics has the series of all ranks of its host.
  // Opens log and terminal for a run of total_steps that begins behind start_step.
  void begin(int64_t start_step, int64_t total_steps);
  void step_done(const StepMetrics& step, bool logged, const RankReport& report);
  void evaluating() { enter(RunState::kEvaluating); }
  void eval_done(int64_t step, double loss, int64_t target_tokens);
  void saving() { enter(RunState::kSaving); }
  void checkpoint_saved(int64_t step, double seconds);
  // kFinished or kStopped. Collective. These two wait up to two seconds for a page that is open to take this last news.
  // `adapter`: where the trained one lies.
  void end(RunState state, const RankReport& report, const std::filesystem::path& adapter);
  void failed(const std::string& message);

  Metrics& metrics() { return metrics_; }
  const RunLog& log() const { return log_; }
  void sync() const { log_.sync(); }

 private:
  using Clock = std::chrono::steady_clock;

  void open_endpoint();
  void enter(RunState state);
  void count(const RankReport& report);
  void measure_memory();
  void exchange_memory();
  bool one_page_a_rank() const;
  void share_pages();
  std::string own_page();
  std::string host_page();
  void publish_metrics();
  void publish();
  void publish_run();
  void write_pictures_of_the_end();
  void say_totals(std::string_view state, double seconds, const std::filesystem::path& adapter);

  World& world_;
  const RunConfig& config_;
  bool speaks_;  // rank 0
  Terminal terminal_;
  Metrics metrics_;
  RunTotals totals_;
  RunView view_;
  std::unique_ptr<Endpoint> endpoint_;
  Clock::time_point start_ = Clock::now(), run_published_;
  std::unique_ptr<Progress> progress_;
  RunLog log_;
  RankReport reported_;
  std::vector<SharedText> pages_;  // of the ranks of this host
};

}  // namespace rankwise
