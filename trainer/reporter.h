// Everything that a run says while it goes: the metrics page, the terminal, train_log.jsonl and loss.svg. On ranks
// other than 0 it keeps the metrics and writes nothing.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "comms/world.h"
#include "configs/run_config.h"
#include "monitoring/endpoint.h"
#include "monitoring/metrics.h"
#include "monitoring/progress.h"
#include "monitoring/run_log.h"

namespace rankwise {

// What this rank has exchanged so far.
struct Traffic {
  uint64_t gathered_bytes = 0, reduced_bytes = 0;
  std::string_view gather_transport, reduce_transport;  // as Communicator::transport and SharedParts::transport
};

class Reporter {
 public:
  // Binds the endpoint on rank 0: a taken port is a warning, or ConfigError where monitoring.required is true.
  Reporter(const World& world, const MonitoringSection& monitoring);

  // A line with its duration, for the stations before the first step.
  ProgressPhase phase(std::string_view name) const { return ProgressPhase(terminal_, name); }
  void note(const std::string& text);  // a line that stays

  // Opens log and terminal for a run of total_steps that begins behind start_step.
  void begin(const RunConfig& config, int64_t start_step, int64_t total_steps);
  void step_done(const StepMetrics& step, bool logged, const Traffic& traffic);
  void eval_done(int64_t step, double loss, int64_t target_tokens);
  void checkpoint_saved(int64_t step, double seconds);
  void end();

  Metrics& metrics() { return metrics_; }
  const RunLog& log() const { return log_; }
  void sync() const { log_.sync(); }

 private:
  void publish(const Traffic& traffic);

  bool speaks_;  // rank 0
  Terminal terminal_;
  Metrics metrics_;
  std::unique_ptr<Endpoint> endpoint_;
  std::unique_ptr<Progress> progress_;
  RunLog log_;
  Traffic reported_;
  std::filesystem::path plot_path_;
  std::string title_;
  int64_t total_steps_ = 0;
};

}  // namespace rankwise
