// What an adapter will train, as text for people.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "trainer/lora/target_matching.h"

namespace rankwise {

// One line for each (entry of target_modules, kind of module, r, alpha), with the number of modules, the scaling and
// the parameters; a header above, the total below. Ends with a newline.
std::string match_table(std::span<const MatchedModule> matched);

// The line of PEFT's print_trainable_parameters, without a newline: "trainable params: 2,442,240 || all params:
// 136,957,248 || trainable%: 1.7832". num_base_parameters counts a tied tensor once.
std::string trainable_report(std::span<const MatchedModule> matched, int64_t num_base_parameters);

}  // namespace rankwise
