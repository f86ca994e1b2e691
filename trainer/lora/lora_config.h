// What an adapter is: the part of PEFT's LoraConfig that is supported. Names and meanings are PEFT's
// (peft/tuners/lora/config.py, release 0.21). Plain values; no file format here.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace rankwise {

// Ways to name modules. A list entry names a module whose path it equals, or ends with after a dot. A regex must match
// the whole path. AllLinear is every linear layer but the output embedding.
using NameList = std::vector<std::string>;
struct NameRegex {
  std::string pattern;
  bool operator==(const NameRegex&) const = default;
};
struct AllLinear {
  bool operator==(const AllLinear&) const = default;
};
using TargetModules = std::variant<NameList, NameRegex, AllLinear>;
using ExcludeModules = std::variant<NameList, NameRegex>;

// init_lora_weights: true, false, "gaussian".
enum class LoraInit { kKaiming, kRandom, kGaussian };

// Pattern -> value, in the order of the file: the first pattern that matches a module wins.
template <typename Value>
using PatternMap = std::vector<std::pair<std::string, Value>>;

struct LoraConfig {
  int64_t r = 8;
  double lora_alpha = 8;
  double lora_dropout = 0;
  TargetModules target_modules = AllLinear{};
  ExcludeModules exclude_modules = NameList{};    // an empty list excludes nothing
  std::vector<int64_t> layers_to_transform = {};  // empty: every layer
  std::vector<std::string> layers_pattern = {};   // names of the layer list, such as "layers"; empty: any
  PatternMap<int64_t> rank_pattern = {};
  PatternMap<double> alpha_pattern = {};
  bool use_rslora = false;
  LoraInit init_lora_weights = LoraInit::kKaiming;
};

// A bare string: "all-linear" in any case, else a regex.
TargetModules target_modules_of(std::string_view text);

// Ranges, and PEFT's rules between fields. Throws ConfigError naming "lora.<field>", its value and the remedy.
void check_lora_config(const LoraConfig& config);

}  // namespace rankwise
