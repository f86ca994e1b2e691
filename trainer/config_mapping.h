// The sections of a RunConfig in the words of the rooms that they describe. Config travels no further than here.
#pragma once

#include "configs/run_config.h"
#include "trainer/checkpoint/resume.h"
#include "trainer/data/sampler.h"
#include "trainer/data/settings.h"
#include "trainer/lora/lora_config.h"
#include "trainer/memory_plan.h"
#include "trainer/model/block.h"
#include "trainer/optim/adamw.h"
#include "trainer/optim/schedule.h"
#include "trainer/weights/model_files.h"
#include "trainer/weights/unit_layout.h"

namespace rankwise {

LoraConfig lora_config_of(const LoraSection& section);
// `part`: which side of eval_fraction's split. For kEval with evaluation files of their own, those files.
DataSettings data_settings_of(const DataSection& section, DataPart part, uint64_t seed);
SamplerSettings sampler_settings_of(const RunConfig& config, int64_t num_rows, int world_size);
AdamWOptions adamw_options_of(const TrainSection& section);
// Throws ConfigError if the warm-up is longer than the run.
Schedule schedule_of(const TrainSection& section, int64_t total_steps);
ResumePolicy resume_policy_of(const CheckpointSection& section);
// What the run asks of its ranks' memory; files may be null, see matrix_dtype_of. `ranks_per_host` is the shard group
// of `hybrid` where no other is named.
// Throws ConfigError for a base_dtype that this device does not multiply in this dtype.
Workload workload_of(const RunConfig& config, const ModelFiles* files, const ModelConfig& model, c10::Device device);
BaseFormat base_format_of(ModelSection::BaseDtype base_dtype);
std::string_view word_of(BaseFormat format);  // as in the configuration: model.base_dtype
LayoutWishes layout_wishes_of(const ParallelSection& section, int world_size, int ranks_per_host);
// What `auto` means on this device: bfloat16 on GPUs and where the CPU multiplies it (AMX or AVX512-BF16), else
// float32.
c10::ScalarType compute_dtype_of(ModelSection::Dtype dtype, c10::Device device);

}  // namespace rankwise
