#include "monitoring/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <limits>
#include <string_view>

#include "base/check.h"
#include "monitoring/process_memory.h"

namespace rankwise {
namespace {

using prometheus::Counter;
using prometheus::Gauge;
using prometheus::Histogram;
using prometheus::Labels;

// Label values, in the order of the enums.
constexpr std::array kPhases = {"data",      "forward",   "backward",   "gather",
                                "allreduce", "optimizer", "checkpoint", "eval"};
constexpr std::array kOps = {"all_reduce", "all_gather"};
constexpr std::array kTransports = {"mpi", "nccl", "peer"};
constexpr std::array kMemoryKinds = {"base_shard",  "gathered",  "adapter",  "gradients", "optimizer",
                                     "activations", "allocator", "reserved", "process"};
constexpr std::array kSkipReasons = {"too_long", "no_target"};
static_assert(kPhases.size() == kNumPhases);
static_assert(kOps.size() == static_cast<size_t>(CommOp::kAllGather) + 1);
static_assert(kTransports.size() == static_cast<size_t>(Transport::kPeer) + 1);
static_assert(kMemoryKinds.size() == kNumMemoryKinds);
static_assert(kSkipReasons.size() == static_cast<size_t>(SkipReason::kNoTarget) + 1);

constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();

// A step takes 0.05 s (a toy) to 100 s (a large model on few ranks).
const Histogram::BucketBoundaries kSecondsBuckets = {0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200};

template <size_t N>
using Counters = std::array<Counter*, N>;
template <size_t N>
using Gauges = std::array<Gauge*, N>;

template <typename Enum>
constexpr size_t index(Enum value) {
  return static_cast<size_t>(value);
}

std::string checked_version(const std::string& version) {
  const auto allowed = [](unsigned char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           std::string_view("._+-").find(static_cast<char>(c)) != std::string_view::npos;
  };
  RW_CHECK(!version.empty() && version.size() <= 64 && std::all_of(version.begin(), version.end(), allowed), Error,
           "metrics: the version of {} bytes is not 1 to 64 letters, digits and ._+-", version.size());
  return version;
}

// Prometheus takes an empty label for an absent one.
Labels info_labels(const Metrics::Options& options) {
  return {{"rank", std::to_string(options.rank)},
          {"local_rank", std::to_string(options.local_rank)},
          {"node", options.host},
          {"gpu_uuid", options.gpu_uuid}};
}

// Creates series in one registry. Help texts are constants: prometheus-cpp does not escape them.
class Builder {
 public:
  explicit Builder(prometheus::Registry& registry) : registry_(registry) {}

  Counter& counter(const char* name, const char* help, const Labels& labels = {}) {
    return prometheus::BuildCounter().Name(name).Help(help).Register(registry_).Add(labels);
  }
  Gauge& gauge(const char* name, const char* help, double start, const Labels& labels = {}) {
    return prometheus::BuildGauge().Name(name).Help(help).Register(registry_).Add(labels, start);
  }
  Histogram& histogram(const char* name, const char* help) {
    return prometheus::BuildHistogram().Name(name).Help(help).Register(registry_).Add({}, kSecondsBuckets);
  }
  template <size_t N>
  Counters<N> counters(const char* name, const char* help, const char* label, const std::array<const char*, N>& values,
                       const Labels& common = {}) {
    Counters<N> all;
    for (size_t i = 0; i < N; ++i) all[i] = &counter(name, help, with(common, label, values[i]));
    return all;
  }
  template <size_t N>
  Gauges<N> gauges(const char* name, const char* help, const char* label, const std::array<const char*, N>& values,
                   const Labels& common) {
    Gauges<N> all;
    for (size_t i = 0; i < N; ++i) all[i] = &gauge(name, help, 0, with(common, label, values[i]));
    return all;
  }
  static Labels with(Labels labels, const char* name, const char* value) {
    labels.emplace(name, value);
    return labels;
  }

 private:
  prometheus::Registry& registry_;
};

}  // namespace

struct Metrics::Impl {
  explicit Impl(const Options& options)
      : serves_run(options.rank == 0), by_rank{{"rank", std::to_string(options.rank)}} {
    for (size_t op = 0; op < kOps.size(); ++op) {
      comm_bytes[op] = of_rank.counters("rankwise_comm_bytes_total", "Bytes received from other ranks", "transport",
                                        kTransports, Builder::with(by_rank, "op", kOps[op]));
    }
    of_rank.gauge("rankwise_rank_info", "1; the labels say where a rank runs", 1, info_labels(options));
    of_run.gauge("rankwise_world_size", "Number of ranks", options.world_size);
    of_run.gauge("rankwise_build_info", "1; the label says which build runs", 1,
                 {{"version", checked_version(options.version)}});
  }

  bool serves_run;
  prometheus::Registry rank_registry, run_registry;
  Builder of_rank{rank_registry}, of_run{run_registry};
  Labels by_rank;

  Counter& steps = of_run.counter("rankwise_train_steps_total", "Optimizer steps done by this process");
  Counter& nonfinite_steps =
      of_run.counter("rankwise_train_nonfinite_steps_total",
                     "Steps whose loss or gradient was not finite and whose update was left out");
  Counter& integrity_checks =
      of_run.counter("rankwise_train_integrity_checks_total",
                     "Times that all ranks' adapters and moments were found equal, and no change of the base");
  Counter& samples = of_run.counter("rankwise_train_samples_total", "Training samples seen, all ranks");
  Counters<3> tokens = of_run.counters("rankwise_train_tokens_total",
                                       "Tokens of training samples (input), those with a loss (target), and padding",
                                       "kind", std::array{"input", "target", "padding"});
  Counters<kSkipReasons.size()> skipped_samples =
      of_run.counters("rankwise_train_skipped_samples_total", "Samples left out of training", "reason", kSkipReasons);
  Counters<kPhases.size()> phase_seconds = of_rank.counters(
      "rankwise_train_phase_seconds_total",
      "Time of a rank by phase, the device's where it has one; phases do not overlap", "phase", kPhases, by_rank);
  std::array<Counters<kTransports.size()>, kOps.size()> comm_bytes;
  Histogram& step_seconds =
      of_run.histogram("rankwise_train_step_duration_seconds", "Wall time of an optimizer step, all its micro-batches");

  Gauge& step = of_run.gauge("rankwise_train_step", "Optimizer steps done since the beginning of the run", 0);
  Gauge& epoch = of_run.gauge("rankwise_train_epoch", "Passes over the training data, with a fraction", 0);
  Gauge& loss = of_run.gauge("rankwise_train_loss", "Loss of the last step, a mean over target tokens", kUnknown);
  Gauge& eval_loss = of_run.gauge("rankwise_eval_loss", "Loss of the last evaluation", kUnknown);
  Gauge& gradient_norm =
      of_run.gauge("rankwise_train_gradient_norm", "Norm of the last gradient before clipping", kUnknown);
  Gauge& learning_rate = of_run.gauge("rankwise_train_learning_rate", "Learning rate of the last step", 0);
  Gauge& tokens_per_second =
      of_run.gauge("rankwise_train_tokens_per_second", "Input tokens a second in the last step, all ranks", 0);
  Gauge& progress_ratio = of_run.gauge("rankwise_train_progress_ratio", "Part of the run that is done, 0 to 1", 0);
  Gauge& active = of_run.gauge("rankwise_train_active", "1 while the training loop runs", 0);
  Gauge& last_step_time =
      of_run.gauge("rankwise_train_last_step_timestamp_seconds", "Unix time of the end of the last step", 0);

  Gauge& success_time = of_run.gauge("rankwise_run_last_success_timestamp_seconds",
                                     "Unix time at which the run was finished; 0: not yet", 0);
  Gauge& run_seconds =
      of_run.gauge("rankwise_run_duration_seconds", "Time from this process's start to its end; 0: it goes on", 0);
  Counter& resumes = of_run.counter("rankwise_resumes_total", "Times that this process continued from a checkpoint");
  Gauge& start_step = of_run.gauge("rankwise_start_step", "Steps done before this process began", 0);
  Counters<2> checkpoint_saves = of_run.counters("rankwise_checkpoint_saves_total", "Attempts to save a checkpoint",
                                                 "result", std::array{"success", "failure"});
  Histogram& checkpoint_seconds =
      of_run.histogram("rankwise_checkpoint_save_duration_seconds", "Wall time of a checkpoint that was saved");
  Gauge& checkpoint_time = of_run.gauge("rankwise_checkpoint_last_success_timestamp_seconds",
                                        "Unix time of the last saved checkpoint; 0: none yet", 0);
  Gauge& checkpoint_step =
      of_run.gauge("rankwise_checkpoint_last_success_step", "Step of the last saved checkpoint; 0: none yet", 0);

  Gauges<kMemoryKinds.size()> memory =
      of_rank.gauges("rankwise_memory_bytes", "Memory in use by kind; process is the resident set, kinds overlap",
                     "kind", kMemoryKinds, by_rank);
  Counter& allocator_retries = of_rank.counter(
      "rankwise_allocator_retries_total", "Times that a device's memory was full of what its allocator kept", by_rank);
  Gauges<kMemoryKinds.size()> memory_peak = of_rank.gauges(
      "rankwise_memory_peak_bytes", "Highest memory in use so far by kind", "kind", kMemoryKinds, by_rank);
};

const char* name_of(Phase phase) { return kPhases[index(phase)]; }
const char* name_of(MemoryKind kind) { return kMemoryKinds[index(kind)]; }

Metrics::Metrics(const Options& options) : impl_(std::make_unique<Impl>(options)) {}
Metrics::~Metrics() = default;

void Metrics::observe_integrity_check() { impl_->integrity_checks.Increment(); }

void Metrics::observe_step(const StepMetrics& step) {
  impl_->steps.Increment();
  impl_->nonfinite_steps.Increment(step.nonfinite ? 1 : 0);
  impl_->samples.Increment(static_cast<double>(step.samples));
  impl_->tokens[0]->Increment(static_cast<double>(step.input_tokens));
  impl_->tokens[1]->Increment(static_cast<double>(step.target_tokens));
  impl_->tokens[2]->Increment(static_cast<double>(step.padding_tokens));
  impl_->step_seconds.Observe(step.step_seconds);
  impl_->step.Set(static_cast<double>(step.step));
  impl_->epoch.Set(step.epoch);
  impl_->loss.Set(step.loss);
  impl_->gradient_norm.Set(step.gradient_norm);
  impl_->learning_rate.Set(step.learning_rate);
  impl_->tokens_per_second.Set(tokens_per_second(step));
  impl_->last_step_time.SetToCurrentTime();
}

void Metrics::set_progress_ratio(double ratio) { impl_->progress_ratio.Set(ratio); }

void Metrics::set_active(bool active) {
  if (active) impl_->last_step_time.SetToCurrentTime();
  impl_->active.Set(active ? 1 : 0);
}

void Metrics::set_eval_loss(double loss) { impl_->eval_loss.Set(loss); }

void Metrics::observe_resume(int64_t start_step) {
  impl_->resumes.Increment();
  impl_->start_step.Set(static_cast<double>(start_step));
  impl_->step.Set(static_cast<double>(start_step));
}

void Metrics::observe_end(bool finished, double seconds) {
  set_active(false);
  impl_->run_seconds.Set(seconds);
  if (finished) impl_->success_time.SetToCurrentTime();
}

void Metrics::observe_checkpoint_saved(int64_t step, double seconds) {
  impl_->checkpoint_saves[0]->Increment();
  impl_->checkpoint_seconds.Observe(seconds);
  impl_->checkpoint_time.SetToCurrentTime();
  impl_->checkpoint_step.Set(static_cast<double>(step));
}

void Metrics::observe_checkpoint_failed() { impl_->checkpoint_saves[1]->Increment(); }

void Metrics::add_phase_seconds(Phase phase, double seconds) { impl_->phase_seconds[index(phase)]->Increment(seconds); }

void Metrics::add_comm_bytes(CommOp op, Transport transport, int64_t bytes) {
  impl_->comm_bytes[index(op)][index(transport)]->Increment(static_cast<double>(bytes));
}

void Metrics::add_skipped_samples(SkipReason reason, int64_t count) {
  impl_->skipped_samples[index(reason)]->Increment(static_cast<double>(count));
}

void Metrics::set_memory(MemoryKind kind, int64_t current_bytes, int64_t peak_bytes) {
  impl_->memory[index(kind)]->Set(static_cast<double>(current_bytes));
  impl_->memory_peak[index(kind)]->Set(static_cast<double>(peak_bytes));
}

void Metrics::set_process_memory() {
  const ProcessMemory memory = process_memory();
  set_memory(MemoryKind::kProcess, memory.resident_bytes, memory.peak_resident_bytes);
}

double Metrics::phase_seconds(Phase phase) const { return impl_->phase_seconds[index(phase)]->Value(); }

void Metrics::set_allocator_retries(int64_t total) {
  impl_->allocator_retries.Increment(static_cast<double>(total) - impl_->allocator_retries.Value());
}

MemoryUse Metrics::memory(MemoryKind kind) const {
  return {.live_bytes = static_cast<int64_t>(impl_->memory[index(kind)]->Value()),
          .peak_bytes = static_cast<int64_t>(impl_->memory_peak[index(kind)]->Value())};
}

std::string Metrics::text() const {
  auto families = impl_->rank_registry.Collect();
  if (impl_->serves_run) std::ranges::move(impl_->run_registry.Collect(), std::back_inserter(families));
  // The registry keeps series in hash maps; a fixed order makes the page readable and comparable.
  std::ranges::sort(families, {}, &prometheus::MetricFamily::name);
  for (auto& family : families) std::ranges::sort(family.metric, {}, &prometheus::ClientMetric::label);
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace rankwise
