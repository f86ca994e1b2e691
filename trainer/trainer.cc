#include "trainer/trainer.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "base/check.h"
#include "base/log.h"
#include "monitoring/process_memory.h"
#include "trainer/config_mapping.h"
#include "trainer/data/batcher.h"
#include "trainer/lora/match_report.h"
#include "trainer/optim/clip.h"
#include "trainer/run_fingerprint.h"
#include "trainer/weights/tensor_memory.h"

namespace rankwise {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// A phase in which units of the base may be waited for: that time is the gather's.
class GatheringPhase {
 public:
  GatheringPhase(Metrics& metrics, Phase phase, const FrozenStore& store) : phase_(metrics, phase), store_(store) {}
  ~GatheringPhase() { phase_.give(Phase::kGather, store_.gather_wait_seconds() - waited_before_); }
  GatheringPhase(const GatheringPhase&) = delete;
  GatheringPhase& operator=(const GatheringPhase&) = delete;

 private:
  ScopedPhase phase_;
  const FrozenStore& store_;
  const double waited_before_ = store_.gather_wait_seconds();
};

}  // namespace

// Sums only, so that ranks without data are harmless and the order of ranks does not matter.
struct Trainer::StepTotals {
  enum { kLoss, kTargets, kInputs, kSamples, kNonfinite, kStop, kCount };
  at::Tensor values = at::zeros({kCount}, at::kDouble);
  double get(int what) const { return values.const_data_ptr<double>()[what]; }
  void add(int what, double value) { values.data_ptr<double>()[what] += value; }
};

Trainer::Trainer(World& world, const RunConfig& config, const std::atomic<bool>& stop)
    : world_(world), config_(config), stop_(stop), reporter_(world, config.monitoring), watchdog_(world) {
  watchdog_.start(std::chrono::seconds(config.comms.timeout_seconds));
  load_inputs();
  make_plan();
  load_model();
  make_adapter();
  resume();
}

Trainer::~Trainer() = default;

void Trainer::load_inputs() {
  watchdog_.beat("prepare", 0);
  {
    const auto phase = reporter_.phase("preparing data");
    world_.agree("text and data", [&] {
      text_.emplace(load_text(config_.model, config_.data));
      data_.emplace(load_data(config_, *text_, [&](const PrepareProgress&) { watchdog_.beat("prepare", 0); }));
    });
  }
  const DataReport& report = data_->train.report();
  reporter_.metrics().add_skipped_samples(SkipReason::kTooLong, report.num_dropped_too_long);
  reporter_.metrics().add_skipped_samples(SkipReason::kNoTarget, report.num_dropped_no_target);
  reporter_.note(describe("train", report));
  if (data_->eval) reporter_.note(describe("eval", data_->eval->report()));
  world_.require_equal("the training data", data_->train.key());
}

void Trainer::make_plan() {
  int64_t available = 0;
  for (const auto& text : world_.gather_strings(std::to_string(available_host_bytes(world_.local_size())))) {
    available = available == 0 ? std::stoll(text) : std::min<int64_t>(available, std::stoll(text));
  }
  world_.agree("plan", [&] {
    const ModelConfig model = read_model_config(config_.model.path);
    const ModelFiles files(config_.model.path);
    check_weights(model, files, config_.model.path);  // every rank's error, here and not later
    plan_ = choose_layout(workload_of(config_, &files, model),
                          layout_wishes_of(config_.parallel, world_.size(), world_.local_size()), available);
    require_dividing_groups(world_, plan_.layout.shard_group_size);
  });
  reporter_.note(describe(plan_, available));
}

void Trainer::load_model() {
  const Layout& layout = plan_.layout;
  watchdog_.beat("load", 0);
  reduction_ = world_.make_communicator(&watchdog_);
  auto shard_group = make_shard_group(world_, layout.shard_group_size, &watchdog_);
  const auto phase = reporter_.phase(fmt::format("loading weights, 1/{} of the base a rank", layout.shard_group_size));
  model_ = std::make_unique<FrozenModel>(config_.model.path, std::move(shard_group),
                                         FrozenModelOptions{.dtype = compute_dtype_of(config_.model.dtype),
                                                            .prefetch = layout.prefetch,
                                                            .resident_bytes = layout.resident_bytes,
                                                            .activations = layout.activations});
  world_.require_equal("the base model", fmt::format("{:016x}", model_->store.fingerprint()));
  const auto nonfinite = world_.gather_strings(std::to_string(model_->store.nonfinite_tensors()));
  if (std::ranges::any_of(nonfinite, [](const std::string& count) { return count != "0"; })) {
    reporter_.note(fmt::format("warning: {}: weights that are not finite (NaN or Inf); the loss may not be either",
                               config_.model.path.string()));
  }
}

void Trainer::make_adapter() {
  const auto groups = model_->decoder.groups();
  const auto modules = adaptable_modules(model_->config);
  const auto dtype = compute_dtype_of(config_.model.dtype);
  world_.agree("adapter", [&] {
    auto matched = resolve_targets(lora_config_of(config_.lora), modules);
    adapter_ = std::make_unique<Adapter>(
        std::move(matched), groups,
        AdapterOptions{.master_dtype = dtype == at::kDouble ? at::kDouble : at::kFloat, .compute_dtype = dtype});
    if (config_.lora.init_adapter) {
      adapter_->load(read_adapter(*config_.lora.init_adapter, modules).tensors);
    } else {
      adapter_->initialise(lora_config_of(config_.lora).init_lora_weights, config_.run.seed);
    }
  });
  reporter_.note(match_table(adapter_->modules()));
  reporter_.note(trainable_report(adapter_->modules(), count_parameters(model_->config)));
  const TensorScope scope(TensorKind::kOptimizer);
  adamw_ = std::make_unique<AdamW>(adapter_->masters(), adamw_options_of(config_.train));
}

void Trainer::resume() {
  sampler_ = std::make_unique<Sampler>(sampler_settings_of(config_, data_->train.num_rows(), world_.size()));
  world_.agree("schedule", [&] { schedule_ = schedule_of(config_.train, sampler_->num_steps()); });
  const RunFacts facts{.base_weights = fmt::format("{:016x}", model_->store.fingerprint()),
                       .tokenizer = text_->tokenizer.fingerprint(),
                       .chat_template = text_->chat_template ? text_->chat_template->fingerprint() : "none",
                       .data = data_->train.key(),
                       .modules = adapter_->modules(),
                       .total_steps = sampler_->num_steps(),
                       .world_size = world_.size()};
  checkpointing_ = std::make_unique<Checkpointing>(world_, config_, adaptable_modules(model_->config),
                                                   make_fingerprint(config_, facts));
  if (checkpointing_->restore(state())) check_position();
  world_.require_equal("the adapter at the start", fmt::format("{:016x}", adapter_->hash()));
}

void Trainer::check_position() {
  const auto step = static_cast<int64_t>(progress_.step), last = sampler_->num_steps();
  world_.agree("resume", [&] {
    RW_CHECK(step <= last, DataError,
             "{}: the checkpoint is of step {} and the run is to have {}; raise train.max_steps or "
             "train.num_train_epochs, or choose another run.output_dir",
             config_.run.output_dir.string(), step, last);
  });
  reporter_.note(fmt::format("continuing behind step {} of {}", step, last));
  const auto used =
      static_cast<int64_t>(progress_.epoch) * data_->train.num_rows() + static_cast<int64_t>(progress_.epoch_rows);
  const int64_t passed_over = step * config_.train.global_batch_size - used;
  if (step < last && passed_over > 0) {
    reporter_.note(
        fmt::format("step {} was the short last one of the run; the {} rows that would have filled it are passed over",
                    step, passed_over));
  }
}

RunEnd Trainer::run() {
  const auto first = static_cast<int64_t>(progress_.step), last = sampler_->num_steps();
  reporter_.begin(config_, first, last);
  if (first == 0) evaluate();
  for (int64_t step = first; step < last; ++step) {
    const bool go_on = train_step();
    if (due(config_.train.eval_steps) || step + 1 == last) evaluate();
    if (!go_on || due(config_.train.save_steps) || step + 1 == last) save();
    if (!go_on && step + 1 < last) {
      reporter_.end();
      return RunEnd::kStopped;
    }
  }
  checkpointing_->save_final(*adapter_);
  reporter_.note(compare(plan_, tensor_memory()));
  reporter_.end();
  watchdog_.stop();
  return RunEnd::kFinished;
}

bool Trainer::due(int64_t interval) const {
  return interval > 0 && static_cast<int64_t>(progress_.step) % interval == 0;
}

bool Trainer::train_step() {
  const auto start = Clock::now();
  const auto step = static_cast<int64_t>(progress_.step);
  const double learning_rate = schedule_.at(step);
  StepTotals totals;
  adapter_->gradients().zero_();
  for (int64_t m = 0; m < sampler_->num_micro_batches(step); ++m)
    totals.add(StepTotals::kLoss, forward_backward(m, totals));
  exchange(totals);
  const double norm = update(totals);

  ++progress_.step;
  progress_.input_tokens += static_cast<uint64_t>(totals.get(StepTotals::kInputs));
  progress_.target_tokens += static_cast<uint64_t>(totals.get(StepTotals::kTargets));
  const double seconds = seconds_since(start);
  progress_.train_seconds += seconds;
  const double epoch = sampler_->epoch_at(step + 1);
  progress_.epoch = static_cast<uint64_t>(epoch);
  progress_.epoch_rows =
      static_cast<uint64_t>(std::llround((epoch - std::floor(epoch)) * static_cast<double>(data_->train.num_rows())));
  const StepMetrics metrics{.step = step + 1,
                            .epoch = epoch,
                            .loss = totals.get(StepTotals::kLoss) / std::max(1.0, totals.get(StepTotals::kTargets)),
                            .gradient_norm = norm,
                            .learning_rate = learning_rate,
                            .input_tokens = static_cast<int64_t>(totals.get(StepTotals::kInputs)),
                            .target_tokens = static_cast<int64_t>(totals.get(StepTotals::kTargets)),
                            .samples = static_cast<int64_t>(totals.get(StepTotals::kSamples)),
                            .step_seconds = seconds,
                            .peak_memory_bytes = process_memory().peak_resident_bytes,
                            .nonfinite = totals.get(StepTotals::kNonfinite) > 0};
  reporter_.step_done(
      metrics, due(config_.train.logging_steps),
      {.gathered_bytes = model_->store.gathered_bytes(), .reduced_bytes = reduction_->stats().all_reduce_bytes});
  return totals.get(StepTotals::kStop) == 0;
}

double Trainer::forward_backward(int64_t micro_batch, StepTotals& totals) {
  const auto step = static_cast<int64_t>(progress_.step);
  std::optional<GatheringPhase> phase(std::in_place, reporter_.metrics(), Phase::kData, model_->store);
  const Batch batch = make_batch(data_->train, sampler_->rows_of(step, micro_batch, world_.rank()));
  if (batch.num_targets() > 0) {  // otherwise a stand-in that keeps this rank in step with the others
    totals.add(StepTotals::kInputs, static_cast<double>(batch.num_tokens()));
    totals.add(StepTotals::kTargets, static_cast<double>(batch.num_targets()));
    totals.add(StepTotals::kSamples, static_cast<double>(batch.num_samples()));
  }
  const StepContext context{step, config_.run.seed, config_.lora.lora_dropout};
  return model_->decoder.forward_backward(batch, context, [&](ModelPhase half) {
    phase.reset();
    phase.emplace(reporter_.metrics(), half == ModelPhase::kForward ? Phase::kForward : Phase::kBackward,
                  model_->store);
    watchdog_.beat(half == ModelPhase::kForward ? "forward" : "backward", step);
  });
}

void Trainer::exchange(StepTotals& totals) {
  const ScopedPhase phase(reporter_.metrics(), Phase::kAllreduce);
  const bool finite =
      std::isfinite(totals.get(StepTotals::kLoss)) && std::isfinite(gradient_norm(adapter_->gradients()));
  if (!finite) {
    log_warning("step {}: the loss or a gradient of rank {} is not finite; all ranks leave the step out",
                progress_.step + 1, world_.rank());
  }
  totals.add(StepTotals::kNonfinite, finite ? 0.0 : 1.0);
  totals.add(StepTotals::kStop, stop_ ? 1.0 : 0.0);
  Work scalars = reduction_->all_reduce(totals.values, Reduce::kSum);
  Work bucket = reduction_->all_reduce(adapter_->gradients(), Reduce::kSum);
  scalars.wait();
  bucket.wait();
}

double Trainer::update(const StepTotals& totals) {
  const ScopedPhase phase(reporter_.metrics(), Phase::kOptimizer);
  const double scale = 1.0 / std::max(1.0, totals.get(StepTotals::kTargets));
  const double norm = gradient_norm(adapter_->gradients()) * scale;
  if (totals.get(StepTotals::kNonfinite) > 0 || !std::isfinite(norm)) {
    count_nonfinite();
    return norm;
  }
  nonfinite_in_a_row_ = 0;
  adamw_->step(adapter_->gradients(), schedule_.at(static_cast<int64_t>(progress_.step)),
               scale * clip_factor(norm, config_.train.max_grad_norm));
  adapter_->refresh_compute_copies();
  progress_.optimizer_steps = static_cast<uint64_t>(adamw_->steps());
  return norm;
}

void Trainer::count_nonfinite() {
  ++nonfinite_in_a_row_;
  if (nonfinite_in_a_row_ <= config_.train.max_nonfinite_steps) return;
  throw AgreedError(
      ExitCode::kInternal,
      fmt::format(
          "step {}: the loss or a gradient was not finite in {} steps in a row (train.max_nonfinite_steps is {}); "
          "lower train.learning_rate or look at the data",
          progress_.step + 1, nonfinite_in_a_row_, config_.train.max_nonfinite_steps));
}

void Trainer::evaluate() {
  if (!data_->eval) return;
  const GatheringPhase phase(reporter_.metrics(), Phase::kEval, model_->store);
  const auto rows = data_->eval->num_rows();
  const int64_t per_batch =
      config_.train.per_device_eval_batch_size.value_or(config_.train.per_device_train_batch_size);
  const int64_t per_round = per_batch * world_.size();
  at::Tensor sums = at::zeros({2}, at::kDouble);
  for (int64_t round = 0; round < rows; round += per_round) {
    watchdog_.beat("evaluate", static_cast<int64_t>(progress_.step));
    std::vector<int64_t> mine;
    for (int64_t row = round + world_.rank() * per_batch; row < std::min(rows, round + (world_.rank() + 1) * per_batch);
         ++row)
      mine.push_back(row);
    const Batch batch = make_batch(*data_->eval, mine);
    sums[0] += model_->decoder.evaluate(batch);
    sums[1] += batch.num_targets();
  }
  reduction_->all_reduce(sums, Reduce::kSum).wait();
  const auto targets = sums[1].item<double>();
  const double loss = sums[0].item<double>() / std::max(1.0, targets);
  const bool is_best = std::isfinite(loss) && (!progress_.best_eval || loss < progress_.best_eval->loss);
  if (is_best) progress_.best_eval = BestEval{loss, progress_.step};
  reporter_.eval_done(static_cast<int64_t>(progress_.step), loss, static_cast<int64_t>(targets));
}

void Trainer::save() {
  const ScopedPhase phase(reporter_.metrics(), Phase::kCheckpoint);
  watchdog_.beat("checkpoint", static_cast<int64_t>(progress_.step));
  reporter_.sync();
  try {
    checkpointing_->save(state());
  } catch (const Error&) {
    reporter_.metrics().observe_checkpoint_failed();
    throw;
  }
  reporter_.checkpoint_saved(static_cast<int64_t>(progress_.step), checkpointing_->last_save_seconds());
}

}  // namespace rankwise
