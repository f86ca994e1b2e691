#include "trainer/reporter.h"

#include <fmt/format.h>

#include "base/log.h"
#include "monitoring/loss_plot.h"
#include "trainer/weights/tensor_memory.h"

namespace rankwise {
namespace {

constexpr MemoryKind kMetricOf[kNumTensorKinds] = {MemoryKind::kBaseShard, MemoryKind::kGathered,
                                                   MemoryKind::kAdapter,   MemoryKind::kGradients,
                                                   MemoryKind::kOptimizer, MemoryKind::kActivations};

Transport transport_named(std::string_view name) {
  return name == "nccl" ? Transport::kNccl : name == "peer" ? Transport::kPeer : Transport::kMpi;
}

}  // namespace

Reporter::Reporter(const World& world, const MonitoringSection& monitoring)
    : speaks_(world.rank() == 0),
      terminal_(detect_terminal(world.rank())),
      metrics_({.rank = world.rank(), .world_size = world.size(), .version = RANKWISE_VERSION}) {
  if (!speaks_ || !monitoring.listen) return;
  try {
    endpoint_ = std::make_unique<Endpoint>(*monitoring.listen);
    endpoint_->publish(metrics_.text());
    note(fmt::format("metrics: {}", endpoint_->url()));
  } catch (const ListenError& error) {
    if (monitoring.required) throw;
    log_warning("{}; the run goes on without metrics (monitoring.required: false)", error.what());
  }
}

void Reporter::note(const std::string& text) {
  if (!speaks_) return;
  if (progress_) {
    progress_->note(text);
  } else {
    fmt::print(stderr, "{}\n", text);
  }
}

void Reporter::begin(const RunConfig& config, int64_t start_step, int64_t total_steps) {
  total_steps_ = total_steps;
  if (start_step > 0) metrics_.observe_resume(start_step);
  metrics_.set_active(true);
  if (!speaks_) return;
  title_ = config.run.name;
  plot_path_ = config.run.output_dir / "loss.svg";
  log_ = RunLog(config.run.output_dir / "train_log.jsonl", start_step == 0 ? 0 : start_step + 1);
  progress_ = std::make_unique<Progress>(Progress::Options{.terminal = terminal_,
                                                           .total_steps = total_steps,
                                                           .start_step = start_step,
                                                           .logging_steps = config.train.logging_steps});
  if (endpoint_) endpoint_->set_ready(true);
}

void Reporter::publish(const Traffic& traffic) {
  metrics_.add_comm_bytes(CommOp::kAllGather, transport_named(traffic.gather_transport),
                          static_cast<int64_t>(traffic.gathered_bytes - reported_.gathered_bytes));
  metrics_.add_comm_bytes(CommOp::kAllReduce, transport_named(traffic.reduce_transport),
                          static_cast<int64_t>(traffic.reduced_bytes - reported_.reduced_bytes));
  reported_ = traffic;
  const TensorMemory memory = tensor_memory();
  for (size_t k = 0; k < kNumTensorKinds; ++k)
    metrics_.set_memory(kMetricOf[k], memory.live_bytes[k], memory.peak_bytes[k]);
  metrics_.set_memory(MemoryKind::kAllocator, memory.live_total, memory.peak_total);
  metrics_.set_process_memory();
  if (endpoint_) endpoint_->publish(metrics_.text());
}

void Reporter::step_done(const StepMetrics& step, bool logged, const Traffic& traffic) {
  metrics_.observe_step(step);
  metrics_.set_progress_ratio(static_cast<double>(step.step) / static_cast<double>(total_steps_));
  publish(traffic);
  if (!speaks_) return;
  progress_->step(step);
  if (logged) log_.write_step(step);
}

void Reporter::eval_done(int64_t step, double loss, int64_t target_tokens) {
  metrics_.set_eval_loss(loss);
  if (!speaks_) return;
  note(fmt::format("step {}: eval loss {:.4f} over {} target tokens", step, loss, target_tokens));
  log_.write_eval(step, loss, target_tokens);
  write_loss_plot(plot_path_, log_.curves(), title_);
  if (endpoint_) endpoint_->publish(metrics_.text());
}

void Reporter::checkpoint_saved(int64_t step, double seconds) {
  metrics_.observe_checkpoint_saved(step, seconds);
  if (endpoint_) endpoint_->publish(metrics_.text());
}

void Reporter::end() {
  metrics_.set_active(false);
  if (!speaks_) return;
  if (progress_) progress_->finish();
  write_loss_plot(plot_path_, log_.curves(), title_);
  if (endpoint_) endpoint_->publish(metrics_.text());
}

}  // namespace rankwise
