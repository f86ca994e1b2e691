#include "trainer/lora/peft_config.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "base/check.h"
#include "base/json.h"

namespace rankwise {
namespace {

using nlohmann::json;

// The release whose format this is; PEFT tells its readers by it which fields to expect.
constexpr std::string_view kPeftVersion = "0.21.2";

// 16 rather than 16.0, as PEFT writes it.
json number(double value) {
  const bool is_integer = value == std::floor(value) && std::abs(value) < 1e15;
  return is_integer ? json(static_cast<int64_t>(value)) : json(value);
}

json sorted(NameList names) {
  std::ranges::sort(names);
  return names;
}

json selection(const ExcludeModules& choice) {
  if (const auto* regex = std::get_if<NameRegex>(&choice)) return regex->pattern;
  const auto& names = std::get<NameList>(choice);
  return names.empty() ? json(nullptr) : sorted(names);
}

json selection(const TargetModules& choice) {
  if (std::holds_alternative<AllLinear>(choice)) return "all-linear";
  if (const auto* regex = std::get_if<NameRegex>(&choice)) return regex->pattern;
  return sorted(std::get<NameList>(choice));
}

json init_value(LoraInit init) {
  if (init == LoraInit::kGaussian) return "gaussian";
  return init == LoraInit::kKaiming;
}

template <typename T>
json list_or_null(const std::vector<T>& list) {
  return list.empty() ? json(nullptr) : json(list);
}

void add_lora_fields(json& out, const LoraConfig& lora) {
  out["r"] = lora.r;
  out["lora_alpha"] = number(lora.lora_alpha);
  out["lora_dropout"] = lora.lora_dropout;
  out["target_modules"] = selection(lora.target_modules);
  out["exclude_modules"] = selection(lora.exclude_modules);
  out["layers_to_transform"] = list_or_null(lora.layers_to_transform);
  out["layers_pattern"] = list_or_null(lora.layers_pattern);
  out["use_rslora"] = lora.use_rslora;
  out["init_lora_weights"] = init_value(lora.init_lora_weights);
  out["rank_pattern"] = json::object();
  for (const auto& [key, r] : lora.rank_pattern) out["rank_pattern"][key] = r;
  out["alpha_pattern"] = json::object();
  for (const auto& [key, alpha] : lora.alpha_pattern) out["alpha_pattern"][key] = number(alpha);
}

// What is the same in every adapter of this program.
json fixed_fields() {
  return {{"peft_type", "LORA"},
          {"peft_version", kPeftVersion},
          {"task_type", "CAUSAL_LM"},
          {"inference_mode", true},
          {"auto_mapping", nullptr},
          {"revision", nullptr},
          {"bias", "none"},
          {"fan_in_fan_out", false},
          {"layer_replication", nullptr},
          {"loftq_config", json::object()},
          {"lora_bias", false},
          {"megatron_config", nullptr},
          {"megatron_core", "megatron.core"},
          {"modules_to_save", nullptr},
          {"target_parameters", nullptr},
          {"trainable_token_indices", nullptr},
          {"use_dora", false}};
}

// Read by the functions below, or without influence on what the adapter computes.
const std::set<std::string_view> kHandledFields = {"peft_type",      "task_type",
                                                   "bias",           "r",
                                                   "lora_alpha",     "lora_dropout",
                                                   "target_modules", "exclude_modules",
                                                   "rank_pattern",   "layers_to_transform",
                                                   "layers_pattern", "alpha_pattern",
                                                   "use_rslora",     "init_lora_weights",
                                                   "peft_version",   "base_model_name_or_path",
                                                   "auto_mapping",   "revision",
                                                   "inference_mode", "megatron_core",
                                                   "loftq_config",   "qalora_group_size",
                                                   "runtime_config", "eva_config"};

class ConfigReader {
 public:
  // `ordered` is the same text with the order of its keys: the first pattern that matches a module decides.
  ConfigReader(const json& config, const nlohmann::ordered_json& ordered, std::string_view place)
      : config_(config), ordered_(ordered), place_(place) {}

  AdapterInfo read() const {
    RW_CHECK(config_.is_object(), DataError, "{}: not a JSON object", place_);
    check_method();
    AdapterInfo info;
    info.base_model_name_or_path = string_or("base_model_name_or_path", "");
    info.lora = {.r = rank("r", find("r"), 8),
                 .lora_alpha = real("lora_alpha", find("lora_alpha"), 8),
                 .lora_dropout = real("lora_dropout", find("lora_dropout"), 0),
                 .target_modules = target_modules(),
                 .exclude_modules = exclude_modules(),
                 .layers_to_transform = layers_to_transform(),
                 .layers_pattern = names("layers_pattern"),
                 .rank_pattern = patterns<int64_t>("rank_pattern",
                                                   [this](const auto& key, const json& r) { return rank(key, r, 0); }),
                 .alpha_pattern = patterns<double>(
                     "alpha_pattern", [this](const auto& key, const json& alpha) { return real(key, alpha, 0); }),
                 .use_rslora = boolean("use_rslora"),
                 .init_lora_weights = init_lora_weights()};
    return info;
  }

 private:
  // The value, or null if the field is missing or null.
  const json& find(const char* field) const {
    static const json kNull;
    const auto found = config_.find(field);
    return found == config_.end() ? kNull : *found;
  }

  [[noreturn]] void refuse(std::string_view field, const json& value, std::string_view supported) const {
    std::string shown = value.dump(-1, ' ', true);
    if (shown.size() > 60) shown = shown.substr(0, 57) + "...";
    throw DataError(fmt::format("{}: {}: {} is not supported; {}", place_, field, shown, supported));
  }

  void check_method() const {
    if (find("peft_type") != "LORA") refuse("peft_type", find("peft_type"), "supported: \"LORA\"");
    const json& task = find("task_type");
    if (!task.is_null() && task != "CAUSAL_LM") refuse("task_type", task, "supported: \"CAUSAL_LM\" or null");
    const json& bias = find("bias");
    if (!bias.is_null() && bias != "none") refuse("bias", bias, "supported: \"none\"");
    for (const auto& [field, value] : config_.items())
      if (!kHandledFields.contains(field) && !is_neutral(value))
        refuse(field, value, "supported: plain LoRA, where this field is absent, null, false or empty");
  }

  static bool is_neutral(const json& value) {
    return value.is_null() || value == false || value == 0 || value == "" || (value.is_structured() && value.empty());
  }

  std::string string_or(const char* field, std::string otherwise) const {
    const json& value = find(field);
    if (value.is_null()) return otherwise;
    if (!value.is_string()) refuse(field, value, "give a string");
    return value.get<std::string>();
  }

  bool boolean(const char* field) const {
    const json& value = find(field);
    if (!value.is_null() && !value.is_boolean()) refuse(field, value, "give true or false");
    return value == true;
  }

  int64_t rank(std::string_view field, const json& value, int64_t otherwise) const {
    return value.is_null() ? otherwise : static_cast<int64_t>(json_uint(value, fmt::format("{}: {}", place_, field)));
  }

  double real(std::string_view field, const json& value, double otherwise) const {
    if (value.is_null()) return otherwise;
    if (!value.is_number()) refuse(field, value, "give a number");
    return value.get<double>();
  }

  // A string stands for a list of one.
  NameList names(const char* field) const {
    const json& value = find(field);
    if (value.is_null() || value == "") return {};
    if (value.is_string()) return {value.get<std::string>()};
    const bool is_list = value.is_array() && std::ranges::all_of(value, [](const json& e) { return e.is_string(); });
    if (!is_list) refuse(field, value, "give a string or a list of strings");
    return value.get<NameList>();
  }

  TargetModules target_modules() const {
    const json& value = find("target_modules");
    // PEFT's default for each model family that is known here.
    if (value.is_null()) return NameList{"q_proj", "v_proj"};
    if (value.is_string()) return target_modules_of(value.get<std::string>());
    return names("target_modules");
  }

  ExcludeModules exclude_modules() const {
    const json& value = find("exclude_modules");
    if (value.is_string() && value != "") return NameRegex{value.get<std::string>()};
    return names("exclude_modules");
  }

  std::vector<int64_t> layers_to_transform() const {
    const json& value = find("layers_to_transform");
    if (value.is_null()) return {};
    if (value.is_number()) return {rank("layers_to_transform", value, 0)};
    if (!value.is_array()) refuse("layers_to_transform", value, "give a number or a list of numbers");
    std::vector<int64_t> layers;
    for (const json& layer : value) layers.push_back(rank("layers_to_transform", layer, 0));
    return layers;
  }

  template <typename Value, typename Read>
  PatternMap<Value> patterns(const char* field, Read read_value) const {
    const json& values = find(field);
    if (values.is_null()) return {};
    if (!values.is_object()) refuse(field, values, "give an object of pattern and value");
    PatternMap<Value> map;
    for (const auto& [key, unused] : ordered_.at(field).items())
      map.emplace_back(key, read_value(fmt::format("{}.{}", field, key), values.at(key)));
    return map;
  }

  LoraInit init_lora_weights() const {
    const json& value = find("init_lora_weights");
    if (value.is_null() || value == true) return LoraInit::kKaiming;
    if (value == false) return LoraInit::kRandom;
    if (value == "gaussian") return LoraInit::kGaussian;
    // These start A and B in their own way but leave the base as it is: the trained tensors are plain LoRA.
    for (const char* base_unchanged : {"eva", "orthogonal", "mica"})
      if (value == base_unchanged) return LoraInit::kKaiming;
    refuse("init_lora_weights", value,
           "it changes the base weights. Save the adapter with PEFT's path_initial_model_for_weight_conversion first");
  }

  const json& config_;
  const nlohmann::ordered_json& ordered_;
  std::string_view place_;
};

}  // namespace

std::string format_adapter_config(const AdapterInfo& info) {
  json out = fixed_fields();
  out["base_model_name_or_path"] = info.base_model_name_or_path;
  add_lora_fields(out, info.lora);
  constexpr bool kAsciiOnly = true;
  return out.dump(2, ' ', kAsciiOnly, json::error_handler_t::replace);
}

AdapterInfo parse_adapter_config(std::string_view text, std::string_view place) {
  const json config = parse_json(text, place);
  return ConfigReader(config, nlohmann::ordered_json::parse(text), place).read();
}

}  // namespace rankwise
