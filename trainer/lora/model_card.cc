#include "trainer/lora/model_card.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "trainer/lora/match_report.h"

namespace rankwise {
namespace {

// A JSON string is a string of YAML and of Python too, whatever the name holds.
std::string quoted(const std::string& text) {
  constexpr bool kAsciiOnly = false;
  return nlohmann::json(text).dump(-1, ' ', kAsciiOnly, nlohmann::json::error_handler_t::replace);
}

constexpr const char* kCard = R"(---
base_model: {0}
library_name: peft
pipeline_tag: text-generation
tags:
- lora
---

# LoRA adapter

Trained with Rankwise on the base model {0}.

```
{1}```

Load it with PEFT, from this directory:

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained({0})
model = PeftModel.from_pretrained(base, ".")
```
)";

}  // namespace

std::string model_card(const AdapterInfo& info, std::span<const MatchedModule> matched) {
  return fmt::format(kCard, quoted(info.base_model_name_or_path), match_table(matched));
}

}  // namespace rankwise
