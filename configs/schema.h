// The one table of all configuration keys: name, kind with its range, and meaning; defaults are those of RunConfig.
// Parser, dump and documentation walk it. Internal to configs/ and its tests.
#pragma once

#include "configs/kind.h"

namespace rankwise {

const Kind<RunConfig>& run_config_kind();

// The large sections have a file each.
Kind<LoraSection> lora_kind();
Kind<DataSection> data_kind();
Kind<TrainSection> train_kind();

}  // namespace rankwise
