#include "trainer/lora/target_check.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <set>

#include "base/check.h"
#include "trainer/lora/module_rules.h"
#include "trainer/lora/nearest_module.h"

namespace rankwise {
namespace {

void check_targets(const LoraConfig& config, std::span<const ModuleInfo> model,
                   std::span<const MatchedModule> matched) {
  const NameList* entries = std::get_if<NameList>(&config.target_modules);
  for (const std::string& entry : entries ? *entries : NameList{}) {
    const auto named_by_entry = [&](const auto& module) { return names_module(entry, module.name); };
    RW_CHECK(std::ranges::any_of(model, named_by_entry), ConfigError,
             "lora.target_modules: \"{}\" matches no module of this model; nearest: {}", entry,
             nearest_module(entry, model));
    RW_CHECK(std::ranges::any_of(matched, named_by_entry), ConfigError,
             "lora.target_modules: every module that \"{}\" matches is taken out again by lora.exclude_modules or "
             "lora.layers_to_transform; drop one of the two",
             entry);
  }
}

void check_something_matched(const LoraConfig& config, std::span<const ModuleInfo> model,
                             std::span<const MatchedModule> matched) {
  if (!matched.empty()) return;
  const NameRegex* regex = std::get_if<NameRegex>(&config.target_modules);
  throw ConfigError(fmt::format(
      "lora.target_modules: {} leaves no module of this model to train{}", regex ? '"' + regex->pattern + '"' : "this",
      model.empty() ? "" : fmt::format("; a regex must match a whole path, such as {}", model.front().name)));
}

void check_exclusions(const LoraConfig& config, std::span<const ModuleInfo> model) {
  if (const auto* regex = std::get_if<NameRegex>(&config.exclude_modules)) {
    const NamePattern pattern(regex->pattern, "lora.exclude_modules");
    RW_CHECK(std::ranges::any_of(model, [&](const auto& m) { return pattern.matches_whole(m.name); }), ConfigError,
             "lora.exclude_modules: \"{}\" matches no module of this model; a regex must match a whole path",
             regex->pattern);
    return;
  }
  for (const std::string& entry : std::get<NameList>(config.exclude_modules))
    RW_CHECK(std::ranges::any_of(model, [&](const auto& m) { return names_module(entry, m.name); }), ConfigError,
             "lora.exclude_modules: \"{}\" matches no module of this model; nearest: {}", entry,
             nearest_module(entry, model));
}

void check_layers(const LoraConfig& config, std::span<const ModuleInfo> model) {
  RW_CHECK(config.layers_pattern.empty() || !config.layers_to_transform.empty(), ConfigError,
           "lora.layers_pattern: has no effect without lora.layers_to_transform; give both or neither");
  if (config.layers_to_transform.empty()) return;
  const LayerRule rule(config.layers_pattern);
  std::set<int64_t> layers;
  for (const ModuleInfo& module : model)
    if (const auto layer = rule.layer_of(module.name)) layers.insert(*layer);
  RW_CHECK(!layers.empty(), ConfigError, "lora.layers_pattern: {} names no list of layers of this model",
           config.layers_pattern);
  for (const int64_t wanted : config.layers_to_transform)
    RW_CHECK(layers.contains(wanted), ConfigError,
             "lora.layers_to_transform: {} is no layer of this model; its layers are {} to {}", wanted, *layers.begin(),
             *layers.rbegin());
}

// A key counts as used when it decides for a module: it is the first that matches.
template <typename Value>
void check_pattern_keys(const PatternMap<Value>& map, std::string_view place, std::span<const ModuleInfo> model,
                        std::span<const MatchedModule> matched) {
  const PatternKeys keys(map, place);
  std::set<size_t> used;
  for (const MatchedModule& module : matched)
    if (const auto key = keys.first_match(module.name)) used.insert(*key);
  for (size_t key = 0; key < map.size(); ++key) {
    if (used.contains(key)) continue;
    const std::string& text = map[key].first;
    const bool matches = std::ranges::any_of(matched, [&](const auto& m) { return keys.matches(key, m.name); });
    RW_CHECK(!matches, ConfigError, "{}: \"{}\" never decides: an earlier key matches each of its modules; move it up",
             place, text);
    throw ConfigError(
        fmt::format("{}: \"{}\" matches none of the modules that carry an adapter; nearest of the model: {}", place,
                    text, nearest_module(text, model)));
  }
}

}  // namespace

void check_every_entry_has_effect(const LoraConfig& config, std::span<const ModuleInfo> model,
                                  std::span<const MatchedModule> matched) {
  check_exclusions(config, model);
  check_layers(config, model);
  check_targets(config, model, matched);
  check_something_matched(config, model, matched);
  check_pattern_keys(config.rank_pattern, "lora.rank_pattern", model, matched);
  check_pattern_keys(config.alpha_pattern, "lora.alpha_pattern", model, matched);
}

}  // namespace rankwise
