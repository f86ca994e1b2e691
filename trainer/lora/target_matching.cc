#include "trainer/lora/target_matching.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "base/check.h"
#include "trainer/lora/module_rules.h"
#include "trainer/lora/target_check.h"

namespace rankwise {
namespace {

// A list or one regex, ready to be asked.
class Selector {
 public:
  Selector(const NameList& names) : names_(names) {}
  Selector(const NameRegex& regex, std::string_view place) : text_(regex.pattern), regex_(NamePattern(text_, place)) {}

  // The entry that names the module, if any.
  std::optional<std::string> entry_for(std::string_view module) const {
    if (regex_) return regex_->matches_whole(module) ? std::optional(text_) : std::nullopt;
    const auto found = std::ranges::find_if(names_, [&](const auto& entry) { return names_module(entry, module); });
    return found == names_.end() ? std::nullopt : std::optional(*found);
  }
  bool has_exactly(std::string_view module) const { return std::ranges::find(names_, module) != names_.end(); }

 private:
  NameList names_;
  std::string text_;
  std::optional<NamePattern> regex_;
};

template <typename Choice>
std::optional<Selector> selector_of(const Choice& choice, std::string_view place) {
  if (const auto* names = std::get_if<NameList>(&choice)) return Selector(*names);
  if (const auto* regex = std::get_if<NameRegex>(&choice)) return Selector(*regex, place);
  return std::nullopt;
}

class Matcher {
 public:
  explicit Matcher(const LoraConfig& config)
      : config_(config),
        targets_(selector_of(config.target_modules, "lora.target_modules")),
        excluded_(*selector_of(config.exclude_modules, "lora.exclude_modules")),
        layers_(config.layers_pattern),
        rank_keys_(config.rank_pattern, "lora.rank_pattern"),
        alpha_keys_(config.alpha_pattern, "lora.alpha_pattern") {}

  std::optional<MatchedModule> match(const ModuleInfo& module) const {
    if (excluded_.entry_for(module.name)) return std::nullopt;
    const std::optional<std::string> entry = targeting_entry(module);
    if (!entry) return std::nullopt;
    RW_CHECK(module.kind != ModuleKind::kEmbedding, ConfigError,
             "lora.target_modules: \"{}\" includes {}, an embedding; only linear layers can carry an adapter here. "
             "Leave it out or name it in lora.exclude_modules",
             *entry, module.name);
    return adapted(module, *entry);
  }

 private:
  std::optional<std::string> targeting_entry(const ModuleInfo& module) const {
    if (!targets_) return module.kind == ModuleKind::kLinear ? std::optional<std::string>("all-linear") : std::nullopt;
    std::optional<std::string> entry = targets_->entry_for(module.name);
    if (entry && !targets_->has_exactly(module.name) && !layer_is_wanted(module.name)) return std::nullopt;
    return entry;
  }

  bool layer_is_wanted(std::string_view module) const {
    const auto& wanted = config_.layers_to_transform;
    if (wanted.empty()) return true;
    const std::optional<int64_t> layer = layers_.layer_of(module);
    return layer && std::ranges::find(wanted, *layer) != wanted.end();
  }

  MatchedModule adapted(const ModuleInfo& module, const std::string& entry) const {
    const auto rank_key = rank_keys_.first_match(module.name);
    const auto alpha_key = alpha_keys_.first_match(module.name);
    const int64_t r = rank_key ? config_.rank_pattern[*rank_key].second : config_.r;
    const double alpha = alpha_key ? config_.alpha_pattern[*alpha_key].second : config_.lora_alpha;
    const auto rank = static_cast<double>(r);
    const double scaling = alpha / (config_.use_rslora ? std::sqrt(rank) : rank);
    return {module.name, module.in_features, module.out_features, r, alpha, scaling, entry};
  }

  const LoraConfig& config_;
  std::optional<Selector> targets_;  // none: all-linear
  Selector excluded_;
  LayerRule layers_;
  PatternKeys rank_keys_;
  PatternKeys alpha_keys_;
};

}  // namespace

std::vector<MatchedModule> match_targets(const LoraConfig& config, std::span<const ModuleInfo> model) {
  check_lora_config(config);
  const Matcher matcher(config);
  std::vector<MatchedModule> matched;
  for (const ModuleInfo& module : model)
    if (auto found = matcher.match(module)) matched.push_back(std::move(*found));
  return matched;
}

std::vector<MatchedModule> resolve_targets(const LoraConfig& config, std::span<const ModuleInfo> model) {
  std::vector<MatchedModule> matched = match_targets(config, model);
  check_every_entry_has_effect(config, model, matched);
  return matched;
}

}  // namespace rankwise
