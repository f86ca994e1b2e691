// The README.md beside an adapter.
#pragma once

#include <span>
#include <string>

#include "trainer/lora/peft_config.h"
#include "trainer/lora/target_matching.h"

namespace rankwise {

// Front matter that the Hugging Face hub reads, what was trained, and how to load it.
std::string model_card(const AdapterInfo& info, std::span<const MatchedModule> matched);

}  // namespace rankwise
