// The LoraConfig that says in the fewest plain words what a match decided.
#pragma once

#include <span>

#include "trainer/lora/target_matching.h"

namespace rankwise {

// Describes `matched`, which is match_targets(config, model) and not empty, without any rule that a reader could take
// differently: target_modules becomes a sorted list, of last components where these say the same and of whole paths
// elsewhere; r and lora_alpha become the most frequent values, and the patterns name what deviates, no two of them the
// same module, so that their order (PEFT sorts them when it saves) does not matter. exclude_modules,
// layers_to_transform and layers_pattern have done their work and are empty. The rest is `config`'s.
// Throws Error if the result would not match the same modules with the same values.
LoraConfig effective_config(const LoraConfig& config, std::span<const ModuleInfo> model,
                            std::span<const MatchedModule> matched);

}  // namespace rankwise
