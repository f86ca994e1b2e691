#include "trainer/reporter.h"

#include <fmt/format.h>

#include <algorithm>
#include <sstream>

#include "base/file.h"
#include "base/log.h"
#include "monitoring/exposition.h"
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

// "live peak live peak ...", in the order of the kinds: how a rank tells rank 0.
std::string memory_text(const Metrics& metrics) {
  std::string text;
  for (size_t k = 0; k < kNumMemoryKinds; ++k) {
    const MemoryUse use = metrics.memory(static_cast<MemoryKind>(k));
    text += fmt::format("{} {} ", use.live_bytes, use.peak_bytes);
  }
  return text;
}

RankMemory read_memory(int rank, const std::string& text) {
  RankMemory memory{.rank = rank};
  std::istringstream words(text);
  for (MemoryUse& use : memory.kinds) words >> use.live_bytes >> use.peak_bytes;
  return memory;
}

void show_history(RunView& view, const LossCurves& curves) {
  for (const LossPoint& point : curves.train) view.loss.add(point.step, point.loss);
  for (const LossPoint& point : curves.eval) view.eval_loss.add(point.step, point.loss);
}

constexpr const char* kMetricsFile = "metrics.prom";
constexpr std::chrono::seconds kPageInterval{1};
constexpr std::chrono::seconds kSeeOffPatience{2};

}  // namespace

Reporter::Reporter(World& world, const RunConfig& config, const std::string& gpu_uuid)
    : world_(world),
      config_(config),
      speaks_(world.rank() == 0),
      terminal_(detect_terminal(world.rank())),
      metrics_({.rank = world.rank(),
                .local_rank = world.local_rank(),
                .world_size = world.size(),
                .host = world.host(),
                .gpu_uuid = gpu_uuid,
                .version = RANKWISE_VERSION}) {
  if (!config.monitoring.listen) return;
  view_.name = config.run.name;
  view_.model = config.model.path.string();
  view_.version = RANKWISE_VERSION;
  view_.configuration = dump_run_config(config);
  view_.world_size = world.size();
  open_endpoint();
}

Reporter::~Reporter() {
  if (endpoint_ && speaks_) set_log_listener(nullptr);
}

// A port that is taken on one host is all ranks' error where monitoring.required, so that all leave alike.
void Reporter::open_endpoint() {
  world_.agree("metrics", [&] {
    const ListenAddress first = parse_listen_address(*config_.monitoring.listen);
    if (one_page_a_rank()) behind(first, world_.local_size() - 1);
    if (world_.local_rank() != 0 && !one_page_a_rank()) return;
    try {
      endpoint_ = std::make_unique<Endpoint>(behind(first, one_page_a_rank() ? world_.local_rank() : 0), speaks_);
    } catch (const ListenError& error) {
      if (config_.monitoring.required) throw;
      log_warning("{}; the run goes on without metrics (monitoring.required: false)", error.what());
    }
  });
  if (!endpoint_) return;
  publish();
  if (!speaks_) return;
  set_log_listener([this](std::string_view line) { view_.log.add(line); });
  note(fmt::format("metrics: {}metrics", endpoint_->url()));
  note(fmt::format("page: {}", endpoint_->url()));
}

bool Reporter::one_page_a_rank() const { return config_.monitoring.endpoints == MonitoringSection::Endpoints::kRank; }

ProgressPhase Reporter::phase(std::string_view name) {
  view_.log.add(name);
  publish_run();
  return ProgressPhase(terminal_, name);
}

void Reporter::note(const std::string& text, const LogFacts& facts) {
  if (!speaks_) return;
  if (progress_) {
    progress_->note(text, facts);
  } else {
    Progress({.terminal = terminal_}).note(text, facts);
  }
  view_.log.add(text);
  publish_run();
}

void Reporter::planned(const MemoryPlan& plan) {
  for (size_t k = 0; k < kNumTensorKinds; ++k) view_.planned_bytes[static_cast<size_t>(kMetricOf[k])] = plan.bytes[k];
  view_.planned_bytes[static_cast<size_t>(MemoryKind::kAllocator)] = plan.total_bytes;
}

void Reporter::begin(int64_t start_step, int64_t total_steps) {
  if (start_step > 0) metrics_.observe_resume(start_step);
  metrics_.set_active(true);
  measure_memory();
  exchange_memory();
  share_pages();
  if (endpoint_) endpoint_->set_ready(true);
  publish_metrics();  // who waits for a first step that never comes sees rankwise_train_active
  if (!speaks_) return;
  std::error_code absent;
  std::filesystem::remove(config_.run.output_dir / kMetricsFile, absent);  // of a process before this one
  log_ = RunLog(config_.run.output_dir / "train_log.jsonl", start_step == 0 ? 0 : start_step + 1);
  progress_ = std::make_unique<Progress>(Progress::Options{.terminal = terminal_,
                                                           .total_steps = total_steps,
                                                           .start_step = start_step,
                                                           .logging_steps = config_.train.logging_steps});
  view_.start_step = view_.last_step.step = start_step;
  view_.total_steps = total_steps;
  show_history(view_, log_.curves());
  enter(RunState::kTraining);
}

void Reporter::enter(RunState state) {
  view_.state = state;
  publish_run();
}

void Reporter::count(const RankReport& report) {
  for (size_t k = 0; k < kNumPhases; ++k) metrics_.add_phase_seconds(static_cast<Phase>(k), report.phase_seconds[k]);
  metrics_.add_comm_bytes(CommOp::kAllGather, transport_named(report.gather_transport),
                          static_cast<int64_t>(report.gathered_bytes - reported_.gathered_bytes));
  metrics_.add_comm_bytes(CommOp::kAllReduce, transport_named(report.reduce_transport),
                          static_cast<int64_t>(report.reduced_bytes - reported_.reduced_bytes));
  reported_ = report;
}

void Reporter::measure_memory() {
  const TensorMemory memory = tensor_memory();
  for (size_t k = 0; k < kNumTensorKinds; ++k)
    metrics_.set_memory(kMetricOf[k], memory.live_bytes[k], memory.peak_bytes[k]);
  metrics_.set_memory(MemoryKind::kAllocator, memory.live_total, memory.peak_total);
  metrics_.set_memory(MemoryKind::kReserved, memory.reserved_bytes, memory.peak_reserved_bytes);
  metrics_.set_allocator_retries(memory.num_retries);
  metrics_.set_process_memory();
}

void Reporter::exchange_memory() {
  if (!config_.monitoring.listen) return;
  const auto texts = world_.gather_strings(memory_text(metrics_));
  view_.ranks.clear();
  for (size_t rank = 0; rank < texts.size(); ++rank)
    view_.ranks.push_back(read_memory(static_cast<int>(rank), texts[rank]));
}

// The ranks of a host give each other their pages through memory; nobody waits for anybody.
void Reporter::share_pages() {
  constexpr size_t kBytes = SharedText::memory_for(Metrics::kMaxPageBytes);
  for (void* part : world_.share_on_host(kBytes)) pages_.emplace_back(part, Metrics::kMaxPageBytes);
}

// This rank's, as it is now, for itself and for its host's first rank.
std::string Reporter::own_page() {
  std::string page = metrics_.text();
  const auto mine = static_cast<size_t>(world_.local_rank());
  if (mine > 0 && mine < pages_.size()) pages_[mine].write(page);
  return page;
}

// Of other ranks what they shared last: of this step, or of the one before.
std::string Reporter::host_page() {
  std::vector<std::string> pages = {own_page()};
  for (size_t rank = 1; rank < pages_.size(); ++rank) pages.push_back(pages_[rank].read());
  return merge_pages(pages);
}

void Reporter::publish_metrics() {
  if (!config_.monitoring.listen) return;
  if (world_.local_rank() != 0 || one_page_a_rank()) {
    std::string page = own_page();
    if (endpoint_) endpoint_->publish(std::move(page));
  } else if (endpoint_) {
    endpoint_->publish(host_page());
  }
}

void Reporter::publish() {
  publish_metrics();
  publish_run();
}

// Rank 0's own figures are those of the moment, the others' those of the last exchange.
void Reporter::publish_run() {
  if (!endpoint_ || !speaks_) return;
  run_published_ = Clock::now();
  for (size_t k = 0; k < kNumPhases; ++k) view_.phase_seconds[k] = metrics_.phase_seconds(static_cast<Phase>(k));
  if (!view_.ranks.empty()) view_.ranks[0] = read_memory(0, memory_text(metrics_));
  endpoint_->publish_run(run_json(view_));
}

void Reporter::step_done(const StepMetrics& step, bool logged, const RankReport& report) {
  metrics_.observe_step(step);
  metrics_.set_progress_ratio(static_cast<double>(step.step) /
                              static_cast<double>(std::max<int64_t>(1, view_.total_steps)));
  count(report);
  measure_memory();
  publish_metrics();
  if (!speaks_) return;
  totals_.input_tokens += step.input_tokens;
  totals_.step_seconds += step.step_seconds;
  totals_.peak_memory_bytes = step.peak_memory_bytes;
  progress_->step(step);
  if (logged) log_.write_step(step);
  view_.add_step(step);
  if (Clock::now() - run_published_ >= kPageInterval) publish_run();
}

void Reporter::eval_done(int64_t step, double loss, int64_t target_tokens) {
  metrics_.set_eval_loss(loss);
  measure_memory();
  exchange_memory();
  if (!speaks_) return;
  log_.write_eval(step, loss, target_tokens);
  write_loss_plot(config_.run.output_dir / "loss.svg", log_.curves(), config_.run.name);
  view_.eval_loss.add(step, loss);
  view_.state = RunState::kTraining;
  note(fmt::format("step {}: eval loss {:.4f} over {} target tokens", step, loss, target_tokens),
       {.event = "evaluation", .step = step, .fields = {{"eval_loss", loss}, {"target_tokens", target_tokens}}});
  publish();
}

void Reporter::checkpoint_saved(int64_t step, double seconds) {
  metrics_.observe_checkpoint_saved(step, seconds);
  measure_memory();
  exchange_memory();
  if (speaks_)
    log_event(fmt::format("step {}: saved in {:.1f} s", step, seconds),
              {.event = "checkpoint", .step = step, .fields = {{"seconds", seconds}}});
  view_.add_checkpoint(step, seconds);
  view_.state = RunState::kTraining;
  publish();
}

void Reporter::end(RunState state, const RankReport& report, const std::filesystem::path& adapter) {
  count(report);
  const double seconds = std::chrono::duration<double>(Clock::now() - start_).count();
  metrics_.observe_end(state == RunState::kFinished, seconds);
  own_page();
  world_.agree("the last metrics", [] {});  // every rank has shared its own
  publish_metrics();
  if (!speaks_) return;
  if (progress_) progress_->finish();
  say_totals(state == RunState::kFinished ? "finished" : "stopped", seconds, adapter);
  enter(state);
  write_pictures_of_the_end();
  if (endpoint_) endpoint_->see_off(kSeeOffPatience);
}

// The adapter is safe: a full disk does not make the run a failure any more.
void Reporter::write_pictures_of_the_end() {
  try {
    write_loss_plot(config_.run.output_dir / "loss.svg", log_.curves(), config_.run.name);
    replace_file(config_.run.output_dir / kMetricsFile, host_page());
  } catch (const std::exception& error) {
    log_warning("{}; the adapter is complete", error.what());
  }
}

// Without what came before a resume.
void Reporter::say_totals(std::string_view state, double seconds, const std::filesystem::path& adapter) {
  const auto tokens = static_cast<double>(totals_.input_tokens);
  const double rate = totals_.step_seconds > 0 ? tokens / totals_.step_seconds : 0;
  note(fmt::format("{} behind step {}: {:.0f} tokens in {}, {:.0f} tok/s, at most {} on rank 0; adapter: {}", state,
                   view_.last_step.step, tokens, format_duration(seconds), rate,
                   format_bytes(totals_.peak_memory_bytes), adapter.string()),
       {.event = "end",
        .step = view_.last_step.step,
        .fields = {{"state", std::string(state)},
                   {"input_tokens", totals_.input_tokens},
                   {"seconds", seconds},
                   {"tokens_per_second", rate},
                   {"peak_memory_bytes", totals_.peak_memory_bytes},
                   {"adapter", adapter.string()}}});
}

void Reporter::failed(const std::string& message) {
  view_.error = message;
  enter(RunState::kFailed);
  if (endpoint_) endpoint_->see_off(kSeeOffPatience);
}

}  // namespace rankwise
