#include "trainer/config_mapping.h"

#include <cmath>

#include "base/check.h"
#include "trainer/frozen_model.h"

namespace rankwise {
namespace {

TargetModules target_modules_of_section(const NamesOrPattern& names) {
  if (const auto* text = std::get_if<std::string>(&names)) return target_modules_of(*text);
  return std::get<std::vector<std::string>>(names);
}

ExcludeModules exclude_modules_of(const std::optional<NamesOrPattern>& names) {
  if (!names) return NameList{};
  if (const auto* text = std::get_if<std::string>(&*names)) return NameRegex{*text};
  return std::get<std::vector<std::string>>(*names);
}

LoraInit lora_init_of(LoraSection::Init init) {
  switch (init) {
    case LoraSection::Init::kFalse:
      return LoraInit::kRandom;
    case LoraSection::Init::kGaussian:
      return LoraInit::kGaussian;
    default:
      return LoraInit::kKaiming;
  }
}

// The enums of configs and data list the same words in the same order.
std::vector<DataFile> files_of(const std::vector<DataSection::File>& files) {
  std::vector<DataFile> out;
  for (const auto& file : files) out.push_back({file.path, static_cast<RecordFormat>(file.format)});
  return out;
}

bool cpu_multiplies_bfloat16() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512bf16");
}

}  // namespace

LoraConfig lora_config_of(const LoraSection& section) {
  LoraConfig config;
  config.r = section.r;
  config.lora_alpha = static_cast<double>(section.lora_alpha);
  config.lora_dropout = section.lora_dropout;
  config.target_modules = target_modules_of_section(section.target_modules);
  config.exclude_modules = exclude_modules_of(section.exclude_modules);
  config.layers_to_transform = section.layers_to_transform.value_or(std::vector<int64_t>{});
  config.layers_pattern = section.layers_pattern.value_or(std::vector<std::string>{});
  config.rank_pattern = section.rank_pattern;
  for (const auto& [pattern, alpha] : section.alpha_pattern)
    config.alpha_pattern.emplace_back(pattern, static_cast<double>(alpha));
  config.use_rslora = section.use_rslora;
  config.init_lora_weights = lora_init_of(section.init_lora_weights);
  return config;
}

DataSettings data_settings_of(const DataSection& section, DataPart part, uint64_t seed) {
  DataSettings settings;
  const bool own_files = part == DataPart::kEval && !section.eval.empty();
  settings.files = files_of(own_files ? section.eval : section.train);
  settings.cache_dir = section.cache_dir;
  settings.max_length = section.max_length;
  settings.packing = section.packing;
  settings.loss_on = static_cast<LossOn>(section.loss_on);
  settings.over_length = static_cast<OverLength>(section.over_length);
  settings.part = section.eval_fraction > 0 && !own_files ? part : DataPart::kAll;
  settings.eval_fraction = section.eval_fraction;
  settings.split_seed = seed;
  return settings;
}

SamplerSettings sampler_settings_of(const RunConfig& config, int64_t num_rows, int world_size) {
  SamplerSettings settings;
  settings.num_rows = num_rows;
  settings.global_batch_rows = config.train.global_batch_size;
  settings.rows_per_micro_batch = config.train.per_device_train_batch_size;
  settings.world_size = world_size;
  settings.seed = config.run.seed;
  settings.num_train_epochs = config.train.num_train_epochs.value_or(1);
  settings.max_steps = config.train.max_steps;
  return settings;
}

AdamWOptions adamw_options_of(const TrainSection& section) {
  return {section.adam_beta1, section.adam_beta2, section.adam_epsilon, section.weight_decay};
}

Schedule schedule_of(const TrainSection& section, int64_t total_steps) {
  Schedule schedule;
  switch (section.lr_scheduler_type) {
    case TrainSection::Scheduler::kLinear:
      schedule.type = ScheduleType::kLinear;
      break;
    case TrainSection::Scheduler::kCosine:
      schedule.type = ScheduleType::kCosine;
      break;
    case TrainSection::Scheduler::kConstant:
      schedule.type = ScheduleType::kConstant;
      break;
    case TrainSection::Scheduler::kConstantWithWarmup:
      schedule.type = ScheduleType::kConstantWithWarmup;
      break;
  }
  schedule.learning_rate = section.learning_rate;
  schedule.total_steps = total_steps;
  schedule.warmup_steps = section.warmup_steps.value_or(
      static_cast<int64_t>(std::ceil(section.warmup_ratio * static_cast<double>(total_steps))));
  RW_CHECK(schedule.warmup_steps <= total_steps, ConfigError,
           "train.warmup_steps: {} is more than the {} steps of the run; lower it", schedule.warmup_steps, total_steps);
  return schedule;
}

ResumePolicy resume_policy_of(const CheckpointSection& section) {
  switch (section.resume.mode) {
    case CheckpointSection::Mode::kRequired:
      return {ResumeMode::kRequired, {}};
    case CheckpointSection::Mode::kNever:
      return {ResumeMode::kNever, {}};
    case CheckpointSection::Mode::kDirectory:
      return {ResumeMode::kDirectory, section.resume.directory};
    default:
      return {ResumeMode::kAuto, {}};
  }
}

Workload workload_of(const RunConfig& config, const ModelFiles* files, const ModelConfig& model, c10::Device device) {
  Workload workload;
  workload.model = model;
  workload.adapter = resolve_targets(lora_config_of(config.lora), adaptable_modules(model));
  const auto dtype = compute_dtype_of(config.model.dtype, device);
  workload.device = device;
  workload.element_bytes = static_cast<int64_t>(c10::elementSize(dtype));
  workload.matrix_bytes = static_cast<int64_t>(c10::elementSize(matrix_dtype_of(files, model, dtype, device)));
  workload.base_format = base_format_of(config.model.base_dtype);
  RW_CHECK(workload.base_format != BaseFormat::kFloat8 || device.is_cpu() || dtype == c10::ScalarType::BFloat16,
           ConfigError, "model.base_dtype: float8 is multiplied in bfloat16 on GPUs; model.dtype: {} does not fit it",
           dtype == c10::ScalarType::Float ? "float32" : "float64");
  workload.master_bytes = dtype == c10::ScalarType::Double ? 8 : 4;
  workload.drops = config.lora.lora_dropout > 0;
  workload.tokens_per_micro_batch = config.train.per_device_train_batch_size * config.data.max_length;
  return workload;
}

BaseFormat base_format_of(ModelSection::BaseDtype base_dtype) {
  switch (base_dtype) {
    case ModelSection::BaseDtype::kNf4:
      return BaseFormat::kNf4;
    case ModelSection::BaseDtype::kFloat8:
      return BaseFormat::kFloat8;
    default:
      return BaseFormat::kPlain;
  }
}

std::string_view word_of(BaseFormat format) {
  for (const auto& [word, base_dtype] : kBaseDtypeWords) {
    if (base_format_of(base_dtype) == format) return word;
  }
  return "unknown";
}

LayoutWishes layout_wishes_of(const ParallelSection& section, int world_size, int ranks_per_host) {
  LayoutWishes wishes;
  wishes.world_size = world_size;
  wishes.ranks_per_host = ranks_per_host;
  wishes.prefetch = static_cast<int>(section.prefetch);
  wishes.cpu_offload = section.cpu_offload;
  if (section.resident_gib) wishes.resident_bytes = static_cast<int64_t>(*section.resident_gib * 0x1p30);
  using Base = ParallelSection::Base;
  if (section.base == Base::kReplicate) wishes.shard_group_size = 1;
  if (section.base == Base::kShard) wishes.shard_group_size = world_size;
  if (section.base == Base::kHybrid)
    wishes.shard_group_size = static_cast<int>(section.shard_group.value_or(ranks_per_host));
  using Activations = ParallelSection::Activations;
  if (section.activations == Activations::kSave) wishes.activations = ActivationPolicy::kSave;
  if (section.activations == Activations::kRecomputeMlp) wishes.activations = ActivationPolicy::kRecomputeMlp;
  if (section.activations == Activations::kRecomputeBlock) wishes.activations = ActivationPolicy::kRecomputeBlock;
  if (section.activations == Activations::kOffload) wishes.activations = ActivationPolicy::kOffload;
  return wishes;
}

c10::ScalarType compute_dtype_of(ModelSection::Dtype dtype, c10::Device device) {
  switch (dtype) {
    case ModelSection::Dtype::kFloat32:
      return c10::ScalarType::Float;
    case ModelSection::Dtype::kBFloat16:
      return c10::ScalarType::BFloat16;
    case ModelSection::Dtype::kFloat64:
      return c10::ScalarType::Double;
    default:
      return device.is_cuda() || cpu_multiplies_bfloat16() ? c10::ScalarType::BFloat16 : c10::ScalarType::Float;
  }
}

}  // namespace rankwise
