#include "trainer/lora/module_rules.h"

#include <fmt/format.h>

#include <charconv>

namespace rankwise {

bool names_module(std::string_view entry, std::string_view module) {
  if (!module.ends_with(entry)) return false;
  const size_t before = module.size() - entry.size();
  return before == 0 || module[before - 1] == '.';
}

std::string_view last_component(std::string_view module) { return module.substr(module.rfind('.') + 1); }

void PatternKeys::add(std::string_view key, std::string_view place) {
  patterns_.emplace_back(fmt::format(R"((.*\.)?({})$)", key), place);
}

std::optional<size_t> PatternKeys::first_match(std::string_view module) const {
  for (size_t key = 0; key < patterns_.size(); ++key)
    if (matches(key, module)) return key;
  return std::nullopt;
}

LayerRule::LayerRule(const std::vector<std::string>& layers_pattern) {
  constexpr std::string_view kPlace = "lora.layers_pattern";
  if (layers_pattern.empty()) patterns_.emplace_back(R"(.*?\.[^.]*\.(?P<idx>\d+)\.)", kPlace);
  for (const std::string& name : layers_pattern)
    patterns_.emplace_back(fmt::format(R"((?:^|.*?\.){}\.(?P<idx>\d+)\.)", name), kPlace);
}

std::optional<int64_t> LayerRule::layer_of(std::string_view module) const {
  for (const NamePattern& pattern : patterns_) {
    if (!pattern.matches_start(module)) continue;
    const std::string digits = pattern.capture(module, "idx").value_or("");
    int64_t layer = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), layer);
    if (error != std::errc{} || end != digits.data() + digits.size()) return std::nullopt;
    return layer;
  }
  return std::nullopt;
}

}  // namespace rankwise
