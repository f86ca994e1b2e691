#include "trainer/lora/lora_config.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace rankwise {
namespace {

// Far above any rank in use, and low enough that rank x width cannot overflow.
constexpr int64_t kMaxRank = 65536;

void check_rank(int64_t r, std::string_view field) {
  RW_CHECK(r >= 1 && r <= kMaxRank, ConfigError, "lora.{}: {} is out of range; give a rank from 1 to {}", field, r,
           kMaxRank);
}

void check_alpha(double alpha, std::string_view field) {
  RW_CHECK(std::isfinite(alpha), ConfigError, "lora.{}: {} is not a finite number", field, alpha);
}

void check_layers(const LoraConfig& config) {
  const bool is_list = std::holds_alternative<NameList>(config.target_modules);
  RW_CHECK(
      is_list || config.layers_to_transform.empty(), ConfigError,
      "lora.layers_to_transform: needs lora.target_modules to be a list of names; it is \"all-linear\" or a regex");
}

}  // namespace

TargetModules target_modules_of(std::string_view text) {
  std::string lower(text);
  std::ranges::transform(lower, lower.begin(), [](char c) { return c >= 'A' && c <= 'Z' ? char(c - 'A' + 'a') : c; });
  if (lower == "all-linear") return AllLinear{};
  return NameRegex{std::string(text)};
}

void check_lora_config(const LoraConfig& config) {
  check_rank(config.r, "r");
  check_alpha(config.lora_alpha, "lora_alpha");
  RW_CHECK(config.lora_dropout >= 0 && config.lora_dropout < 1, ConfigError,
           "lora.lora_dropout: {} is out of range; give a probability of at least 0 and below 1", config.lora_dropout);
  for (const auto& [key, r] : config.rank_pattern) check_rank(r, "rank_pattern." + key);
  for (const auto& [key, alpha] : config.alpha_pattern) check_alpha(alpha, "alpha_pattern." + key);
  check_layers(config);
}

}  // namespace rankwise
