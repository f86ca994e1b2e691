// adapter_config.json, PEFT's description of an adapter, to and from text. Source: peft/config.py and
// peft/tuners/lora/config.py, release 0.21.
#pragma once

#include <string>
#include <string_view>

#include "trainer/lora/lora_config.h"

namespace rankwise {

struct AdapterInfo {
  LoraConfig lora;
  std::string base_model_name_or_path;
};

// Keys sorted, indent 2, lists sorted, ASCII; only fields that every PEFT release of the last years knows.
std::string format_adapter_config(const AdapterInfo& info);

// Missing fields take PEFT's defaults. Throws DataError("PLACE: field: value; what is supported") for text that is not
// strict JSON, a value of a wrong type or range, a method other than plain LoRA (DoRA, biases, saved modules, changed
// base weights, ...), and any field that is not known here unless it is null, false, zero or empty. No message holds
// more of the file than a short value.
AdapterInfo parse_adapter_config(std::string_view text, std::string_view place);

}  // namespace rankwise
