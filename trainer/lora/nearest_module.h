// A hint for a name that no module has.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "trainer/lora/target_matching.h"

namespace rankwise {

// Among the endings of the modules' paths that have as many components as `name`: the one with the fewest edits to it,
// and how many modules have it, as in "q_proj (30 modules)". Empty without modules.
std::string nearest_module(std::string_view name, std::span<const ModuleInfo> model);

}  // namespace rankwise
