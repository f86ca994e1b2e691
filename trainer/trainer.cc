#include "trainer/trainer.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "base/check.h"
#include "base/log.h"
#include "monitoring/process_memory.h"
#include "trainer/checkpoint/run_directory.h"
#include "trainer/config_mapping.h"
#include "trainer/data/batcher.h"
#include "trainer/integrity_check.h"
#include "trainer/lora/match_report.h"
#include "trainer/run_fingerprint.h"
#include "trainer/weights/tensor_memory.h"

namespace rankwise {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

}  // namespace

Trainer::Trainer(World& world, const RunConfig& config, const std::atomic<bool>& stop)
    : world_(world),
      config_(config),
      stop_(stop),
      watchdog_(world),
      devices_(world, {.wish = config.parallel.device,
                       .timeout = std::chrono::seconds(config.comms.timeout_seconds),
                       .peer_copies = config.comms.peer_copies,
                       .deterministic = config.train.deterministic.value_or(false),
                       .cache_dir = config.data.cache_dir,
                       .observer = &watchdog_}),
      clock_(devices_.device()),
      reporter_(world, config, devices_.gpu_uuid()),
      dtype_(compute_dtype_of(config.model.dtype, devices_.device())) {
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
  const int64_t available = devices_.available_bytes();
  world_.agree("plan", [&] {
    require_products(base_format_of(config_.model.base_dtype), devices_.capability());
    const ModelConfig model = read_model_config(config_.model.path);
    const ModelFiles files(config_.model.path);
    check_weights(model, files, config_.model.path);  // every rank's error, here and not later
    plan_ = choose_layout(workload_of(config_, &files, model, devices_.device()),
                          layout_wishes_of(config_.parallel, world_.size(), world_.local_size()), available);
    require_dividing_groups(world_, plan_.layout.shard_group_size);
  });
  reporter_.planned(plan_);
  reporter_.note(describe(plan_, available));
}

void Trainer::load_model() {
  const Layout& layout = plan_.layout;
  watchdog_.beat("load", 0);
  reduction_ = devices_.all_ranks();
  auto shard_group = devices_.shard_group(layout.shard_group_size);
  const auto phase = reporter_.phase(fmt::format("loading weights, 1/{} of the base a rank", layout.shard_group_size));
  const FrozenModelOptions options{.dtype = dtype_,
                                   .device = devices_.device(),
                                   .base_format = base_format_of(config_.model.base_dtype),
                                   .layout = layout};
  model_ = std::make_unique<FrozenModel>(config_.model.path, std::move(shard_group), options);
  model_->store.observe_waits(&clock_);
  world_.require_equal("the base model", fmt::format("{:016x}", model_->store.fingerprint()));
  if (config_.train.integrity_check_steps > 0) base_check_ = std::make_unique<BaseCheck>(model_->store.held());
  const auto nonfinite = world_.gather_strings(std::to_string(model_->store.nonfinite_tensors()));
  if (std::ranges::any_of(nonfinite, [](const std::string& count) { return count != "0"; })) {
    reporter_.note(fmt::format("warning: {}: weights that are not finite (NaN or Inf); the loss may not be either",
                               config_.model.path.string()));
  }
}

void Trainer::make_adapter() {
  const auto groups = model_->decoder.groups();
  const auto modules = adaptable_modules(model_->config);
  world_.agree("adapter", [&] {
    auto matched = resolve_targets(lora_config_of(config_.lora), modules);
    adapter_ =
        std::make_unique<Adapter>(std::move(matched), groups,
                                  AdapterOptions{.master_dtype = dtype_ == at::kDouble ? at::kDouble : at::kFloat,
                                                 .compute_dtype = dtype_,
                                                 .device = devices_.device()});
    if (config_.lora.init_adapter) {
      adapter_->load(read_adapter(*config_.lora.init_adapter, modules).tensors);
    } else {
      adapter_->initialise(lora_config_of(config_.lora).init_lora_weights, config_.run.seed);
    }
  });
  reporter_.note(match_table(adapter_->modules()));
  reporter_.note(trainable_report(adapter_->modules(), count_parameters(model_->config)));
  note_composed();
  use_graphs();
  const TensorScope scope(TensorKind::kOptimizer);
  adamw_ = std::make_unique<AdamW>(adapter_->masters(), adamw_options_of(config_.train));
  step_ = std::make_unique<TrainStep>(model_->decoder, *adapter_, *adamw_, *reduction_, config_.train.max_grad_norm);
}

void Trainer::note_composed() {
  const int64_t composed = model_->decoder.num_composed();
  if (!devices_.device().is_cuda() || composed == 0) return;
  reporter_.note(
      fmt::format("{} of {} blocks are computed without fused low-rank terms, which is slower: those want model.dtype "
                  "bfloat16, LoRA of one rank, 8 or 16, on gate_proj, up_proj and down_proj, and a GPU with 216 KB of "
                  "shared memory a block, as an H100",
                  composed, model_->config.num_hidden_layers));
}

void Trainer::use_graphs() {
  if (!config_.train.cuda_graphs || !devices_.device().is_cuda()) return;
  if (const char* why_not = model_->decoder.record_graphs()) reporter_.note(fmt::format("no CUDA graphs: {}", why_not));
  records_graphs_ = model_->decoder.records_graphs();
}

// Once: of the first micro-batch; others may be of another kind.
void Trainer::note_attention(const Batch& batch) {
  if (std::exchange(attention_noted_, true) || devices_.device().is_cpu()) return;
  reporter_.note(fmt::format("attention by {}", model_->decoder.attention_kernel(batch)));
}

void Trainer::note_graphs() {
  if (records_graphs_ && !model_->decoder.records_graphs()) {
    reporter_.note("no CUDA graphs from here on: there was no memory to record one");
    records_graphs_ = false;
  }
  if (model_->decoder.num_replays() == 0 || std::exchange(graphs_noted_, true)) return;
  reporter_.note("micro-batches of one shape are started as CUDA graphs");
}

void Trainer::resume() {
  sampler_ = std::make_unique<Sampler>(sampler_settings_of(config_, data_->train.num_rows(), world_.size()));
  world_.agree("schedule", [&] { schedule_ = schedule_of(config_.train, sampler_->num_steps()); });
  const RunFacts facts{.base_weights = fmt::format("{:016x}", model_->store.fingerprint()),
                       .tokenizer = text_->tokenizer.fingerprint(),
                       .chat_template = text_->chat_template ? text_->chat_template->fingerprint() : "none",
                       .data = data_->train.key(),
                       .compute_dtype = c10::toString(dtype_),
                       .modules = adapter_->modules(),
                       .total_steps = sampler_->num_steps(),
                       .world_size = world_.size()};
  checkpointing_ = std::make_unique<Checkpointing>(world_, config_, adaptable_modules(model_->config),
                                                   make_fingerprint(config_, facts));
  if (checkpointing_->restore(state())) check_position();
  world_.require_equal("the adapter at the start", fmt::format("{:016x}", replica_digest(adapter_->masters())));
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
  try {
    return train();
  } catch (const std::exception& error) {
    reporter_.failed(world_.message_of(error));
    throw;
  }
}

RunEnd Trainer::train() {
  const auto first = static_cast<int64_t>(progress_.step), last = sampler_->num_steps();
  reporter_.begin(first, last);
  if (first == 0) evaluate();
  settled_ = Clock::now();
  for (int64_t step = first; step < last; ++step) {
    start_step(step);
    // A device works on this step while the host reads the one before.
    while (pending_.size() > 1) settle();
    const bool checks = due(step + 1, config_.train.integrity_check_steps);
    const bool looks_up = checks || due(step + 1, config_.train.eval_steps) || due(step + 1, config_.train.save_steps);
    while (!pending_.empty() && (looks_up || stop_agreed_ || step + 1 == last || devices_.device().is_cpu())) settle();
    const bool saves = stop_agreed_ || due(step + 1, config_.train.save_steps) || step + 1 == last;
    if (due(step + 1, config_.train.eval_steps) || step + 1 == last) evaluate();
    if (checks || saves) check_integrity(/*of_all=*/saves);
    if (saves) save();
    if (stop_agreed_ && step + 1 < last) return end(RunState::kStopped);
  }
  checkpointing_->save_final(*adapter_);
  reporter_.note(compare(plan_, tensor_memory()));
  return end(RunState::kFinished);
}

// Rank 0 has more to write than the others, who wait for it here, where they are watched, and not in MPI's own end.
RunEnd Trainer::end(RunState state) {
  const auto& directory = config_.run.output_dir;
  reporter_.end(state, rank_report(),
                state == RunState::kFinished ? directory / "final" : checkpoint_path(directory, progress_.step));
  world_.agree("the end", [] {});
  watchdog_.stop();
  return state == RunState::kFinished ? RunEnd::kFinished : RunEnd::kStopped;
}

bool Trainer::due(int64_t steps_done, int64_t interval) { return interval > 0 && steps_done % interval == 0; }

void Trainer::start_step(int64_t step) {
  for (int64_t m = 0; m < sampler_->num_micro_batches(step); ++m) forward_backward(step, m);
  {
    const PhaseScope phase(clock_, Phase::kAllreduce);
    step_->exchange(stop_);
  }
  const PhaseScope phase(clock_, Phase::kOptimizer);
  const double learning_rate = schedule_.at(step);
  pending_.push_back({learning_rate, step_->update(learning_rate)});
  if (base_check_) base_check_->look();
}

void Trainer::forward_backward(int64_t step, int64_t micro_batch) {
  const PhaseScope phase(clock_, Phase::kData);
  const Batch batch = make_batch(data_->train, sampler_->rows_of(step, micro_batch, world_.rank()));
  note_attention(batch);
  const StepContext context{step, config_.run.seed, config_.lora.lora_dropout};
  step_->add(batch, context, [&](ModelPhase half) {
    clock_.enter(half == ModelPhase::kForward ? Phase::kForward : Phase::kBackward);
    watchdog_.beat(half == ModelPhase::kForward ? "forward" : "backward", step);
  });
  note_graphs();
}

void Trainer::settle() {
  StartedStep started = std::move(pending_.front());
  pending_.pop_front();
  const StepResult result = started.step.read();
  stop_agreed_ = stop_agreed_ || result.stop;
  advance(result, started.learning_rate);
  count_nonfinite(result);
}

void Trainer::advance(const StepResult& result, double learning_rate) {
  ++progress_.step;
  progress_.optimizer_steps += result.applied ? 1 : 0;
  progress_.input_tokens += static_cast<uint64_t>(result.input_tokens);
  progress_.target_tokens += static_cast<uint64_t>(result.target_tokens);
  const double seconds = seconds_since(std::exchange(settled_, Clock::now()));
  progress_.train_seconds += seconds;
  const auto step = static_cast<int64_t>(progress_.step);
  const double epoch = sampler_->epoch_at(step);
  progress_.epoch = static_cast<uint64_t>(epoch);
  progress_.epoch_rows =
      static_cast<uint64_t>(std::llround((epoch - std::floor(epoch)) * static_cast<double>(data_->train.num_rows())));
  const StepMetrics metrics{.step = step,
                            .epoch = epoch,
                            .loss = result.mean_loss(),
                            .gradient_norm = result.gradient_norm,
                            .learning_rate = learning_rate,
                            .input_tokens = result.input_tokens,
                            .target_tokens = result.target_tokens,
                            .samples = result.samples,
                            .step_seconds = seconds,
                            .peak_memory_bytes = devices_.device().is_cpu() ? process_memory().peak_resident_bytes
                                                                            : tensor_memory().peak_total,
                            .nonfinite = result.nonfinite_ranks > 0};
  reporter_.step_done(metrics, due(step, config_.train.logging_steps), rank_report());
}

RankReport Trainer::rank_report() {
  return {.phase_seconds = clock_.take(),
          .gathered_bytes = model_->store.gathered_bytes(),
          .reduced_bytes = reduction_->stats().all_reduce_bytes,
          .gather_transport = model_->store.transport(),
          .reduce_transport = reduction_->transport()};
}

void Trainer::count_nonfinite(const StepResult& result) {
  if (result.nonfinite_here) {
    log_warning("step {}: the loss or a gradient of rank {} is not finite; all ranks leave the step out",
                progress_.step, world_.rank());
  }
  nonfinite_in_a_row_ = result.applied ? 0 : nonfinite_in_a_row_ + 1;
  if (nonfinite_in_a_row_ <= config_.train.max_nonfinite_steps) return;
  check_integrity(/*of_all=*/true);  // whose message comes first: what changed in a memory is often no number
  throw AgreedError(
      ExitCode::kInternal,
      fmt::format(
          "step {}: the loss or a gradient was not finite in {} steps in a row (train.max_nonfinite_steps is {}); "
          "lower train.learning_rate or look at the data",
          progress_.step, nonfinite_in_a_row_, config_.train.max_nonfinite_steps));
}

// The base: as far as the steps have looked at it, or all of it.
void Trainer::check_integrity(bool of_all) {
  if (!base_check_) return;
  const PhaseScope phase(clock_, Phase::kAllreduce);
  const auto step = static_cast<int64_t>(progress_.step);
  watchdog_.beat("check integrity", step);
  if (of_all) base_check_->look_at_all();
  require_unchanged_base(world_, step, base_check_->changed());
  require_equal_replicas(world_, step,
                         {{"the adapter", adapter_->masters()},
                          {"the first moments", adamw_->first_moment()},
                          {"the second moments", adamw_->second_moment()}});
  reporter_.metrics().observe_integrity_check();
  settled_ = Clock::now();
}

void Trainer::evaluate() {
  if (!data_->eval) return;
  reporter_.evaluating();
  const PhaseScope phase(clock_, Phase::kEval);
  const auto rows = data_->eval->num_rows();
  const int64_t per_batch =
      config_.train.per_device_eval_batch_size.value_or(config_.train.per_device_train_batch_size);
  const int64_t per_round = per_batch * world_.size();
  at::Tensor sums = at::zeros({2}, at::TensorOptions().dtype(at::kDouble).device(devices_.device()));
  for (int64_t round = 0; round < rows; round += per_round) {
    watchdog_.beat("evaluate", static_cast<int64_t>(progress_.step));
    std::vector<int64_t> mine;
    for (int64_t row = round + world_.rank() * per_batch; row < std::min(rows, round + (world_.rank() + 1) * per_batch);
         ++row)
      mine.push_back(row);
    const Batch batch = make_batch(*data_->eval, mine);
    sums[0].add_(model_->decoder.evaluate(batch));
    sums[1].add_(batch.num_targets());
  }
  reduction_->all_reduce(sums, Reduce::kSum).wait();
  const auto targets = sums[1].item<double>();
  const double loss = sums[0].item<double>() / std::max(1.0, targets);
  const bool is_best = std::isfinite(loss) && (!progress_.best_eval || loss < progress_.best_eval->loss);
  if (is_best) progress_.best_eval = BestEval{loss, progress_.step};
  reporter_.eval_done(static_cast<int64_t>(progress_.step), loss, static_cast<int64_t>(targets));
  settled_ = Clock::now();
}

void Trainer::save() {
  reporter_.saving();
  const PhaseScope phase(clock_, Phase::kCheckpoint);
  watchdog_.beat("checkpoint", static_cast<int64_t>(progress_.step));
  reporter_.sync();
  try {
    checkpointing_->save(state());
  } catch (const Error&) {
    reporter_.metrics().observe_checkpoint_failed();
    throw;
  }
  reporter_.checkpoint_saved(static_cast<int64_t>(progress_.step), checkpointing_->last_save_seconds());
  settled_ = Clock::now();
}

}  // namespace rankwise
