// Refuses a LoraConfig of which a part has no effect on the model: a mis-spelt name must not train less in silence.
#pragma once

#include <span>

#include "trainer/lora/target_matching.h"

namespace rankwise {

// `matched` is match_targets(config, model). Throws ConfigError; see resolve_targets.
void check_every_entry_has_effect(const LoraConfig& config, std::span<const ModuleInfo> model,
                                  std::span<const MatchedModule> matched);

}  // namespace rankwise
