#include "trainer/lora/effective_config.h"

#include <algorithm>
#include <map>
#include <set>

#include "base/check.h"
#include "trainer/lora/module_rules.h"

namespace rankwise {
namespace {

NameList fewest_names(std::span<const ModuleInfo> model, std::span<const MatchedModule> matched) {
  std::set<std::string_view> matched_names;
  for (const MatchedModule& module : matched) matched_names.insert(module.name);
  std::set<std::string_view> shared_with_others;
  for (const ModuleInfo& module : model)
    if (!matched_names.contains(module.name)) shared_with_others.insert(last_component(module.name));
  std::set<std::string> names;
  for (const std::string_view name : matched_names) {
    const std::string_view ending = last_component(name);
    names.emplace(shared_with_others.contains(ending) ? name : ending);
  }
  return {names.begin(), names.end()};
}

// A path as a regex that matches this path only.
std::string escaped(std::string_view path) {
  constexpr std::string_view kSpecial = R"(\^$.|?*+()[]{})";
  std::string regex;
  for (const char c : path) {
    if (kSpecial.find(c) != std::string_view::npos) regex += '\\';
    regex += c;
  }
  return regex;
}

// `otherwise` where it is as frequent as any.
template <typename Value>
Value most_frequent(std::span<const MatchedModule> matched, Value MatchedModule::*field, Value otherwise) {
  std::map<Value, size_t> counts;
  for (const MatchedModule& module : matched) ++counts[module.*field];
  const auto most = std::ranges::max_element(counts, {}, [](const auto& entry) { return entry.second; });
  return counts[otherwise] == most->second ? otherwise : most->first;
}

// What deviates from `usual`: one key for a last component of which all modules agree, else one for each path.
template <typename Value>
PatternMap<Value> deviations(std::span<const MatchedModule> matched, Value MatchedModule::*field, Value usual) {
  std::map<std::string_view, std::set<Value>> values_of_ending;
  for (const MatchedModule& module : matched) values_of_ending[last_component(module.name)].insert(module.*field);
  std::map<std::string, Value> patterns;
  for (const MatchedModule& module : matched) {
    if (module.*field == usual) continue;
    const std::string_view ending = last_component(module.name);
    patterns.emplace(escaped(values_of_ending[ending].size() == 1 ? ending : module.name), module.*field);
  }
  return {patterns.begin(), patterns.end()};
}

bool same_result(const MatchedModule& a, const MatchedModule& b) {
  return a.name == b.name && a.r == b.r && a.alpha == b.alpha && a.scaling == b.scaling;
}

}  // namespace

LoraConfig effective_config(const LoraConfig& config, std::span<const ModuleInfo> model,
                            std::span<const MatchedModule> matched) {
  RW_CHECK(!matched.empty(), Error, "an adapter without modules cannot be described");
  LoraConfig effective = config;
  effective.target_modules = fewest_names(model, matched);
  effective.exclude_modules = NameList{};
  effective.layers_to_transform.clear();
  effective.layers_pattern.clear();
  effective.r = most_frequent(matched, &MatchedModule::r, config.r);
  effective.lora_alpha = most_frequent(matched, &MatchedModule::alpha, config.lora_alpha);
  effective.rank_pattern = deviations(matched, &MatchedModule::r, effective.r);
  effective.alpha_pattern = deviations(matched, &MatchedModule::alpha, effective.lora_alpha);
  RW_CHECK(std::ranges::equal(match_targets(effective, model), matched, same_result), Error,
           "the adapter's modules cannot be told apart by their names; this is a bug");
  return effective;
}

}  // namespace rankwise
