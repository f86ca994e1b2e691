// The single rules by which PEFT lets words of a LoraConfig point at modules. target_matching.h puts them together.
// Sources: peft/tuners/tuners_utils.py (check_target_module_exists) and peft/utils/other.py (get_pattern_key).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "trainer/lora/lora_config.h"
#include "trainer/lora/name_pattern.h"

namespace rankwise {

// A list entry: the module's whole path, or the end of it after a dot.
bool names_module(std::string_view entry, std::string_view module);

// "q_proj" of "model.layers.0.self_attn.q_proj".
std::string_view last_component(std::string_view module);

// The keys of rank_pattern or alpha_pattern. A key matches the whole path or its end after a dot, as a regex.
class PatternKeys {
 public:
  template <typename Value>
  PatternKeys(const PatternMap<Value>& map, std::string_view place) {
    for (const auto& entry : map) add(entry.first, place);
  }
  std::optional<size_t> first_match(std::string_view module) const;
  bool matches(size_t key, std::string_view module) const { return patterns_[key].matches_start(module); }
  size_t size() const noexcept { return patterns_.size(); }

 private:
  void add(std::string_view key, std::string_view place);
  std::vector<NamePattern> patterns_;
};

// The layer that a module belongs to: the first number of its path that follows a named list, or, with layers_pattern,
// a list of one of these names.
class LayerRule {
 public:
  explicit LayerRule(const std::vector<std::string>& layers_pattern);
  std::optional<int64_t> layer_of(std::string_view module) const;

 private:
  std::vector<NamePattern> patterns_;
};

}  // namespace rankwise
