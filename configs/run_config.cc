#include "configs/run_config.h"

#include <algorithm>

#include "base/check.h"
#include "base/file.h"
#include "configs/known_keys.h"
#include "configs/rules.h"
#include "configs/schema.h"

namespace rankwise {
namespace {

struct Override {
  std::string_view section;
  std::string_view name;
  std::string_view value;
};

// A key of exactly two words: the parts of a list or of a pattern map are set together.
Override split_override(std::string_view text) {
  check_yaml_characters(text, {.place = "--set", .key = "--set"});
  const size_t equals = text.find('=');
  RW_CHECK(equals != text.npos, ConfigError, "--set {}: no value; write --set section.key=value", text);
  const std::string_view key = text.substr(0, equals);
  std::vector<std::string> keys = dotted_keys(run_config_kind().shape);
  std::erase_if(keys, [](const std::string& known) { return known.find('[') != known.npos; });
  RW_CHECK(std::find(keys.begin(), keys.end(), key) != keys.end(), ConfigError, "--set {}: unknown key; nearest: {}",
           key, nearest_key(key.substr(0, key.find('[')), keys));
  const size_t dot = key.find('.');
  return {key.substr(0, dot), key.substr(dot + 1), text.substr(equals + 1)};
}

YamlNode& child_of(YamlNode& map, std::string_view key, const std::string& place) {
  if (map.kind == YamlNode::Kind::kNull) map.kind = YamlNode::Kind::kMap;
  if (YamlNode* child = map.find(key)) return *child;
  map.entries.push_back({std::string(key), place, {}});
  map.entries.back().value.place = place;
  return map.entries.back().value;
}

void apply_override(YamlNode& root, std::string_view text) {
  const Override override = split_override(text);
  const std::string place = fmt::format("--set {}", text);
  const std::string key = fmt::format("{}.{}", override.section, override.name);
  const bool has_text = override.value.find_first_not_of(' ') != std::string_view::npos;
  RW_CHECK(has_text, ConfigError, "{}: {}: no value; write null if that is meant", place, key);
  YamlNode value = parse_yaml(override.value, {.place = place, .key = key});
  if (value.place.empty()) value.place = place;
  child_of(child_of(root, override.section, place), override.name, place) = std::move(value);
}

}  // namespace

RunConfig parse_run_config(std::string_view text, std::string_view place, const std::vector<std::string>& overrides) {
  YamlNode root = parse_yaml(text, {.place = place});
  RW_CHECK(root.kind != YamlNode::Kind::kNull, ConfigError,
           "{}:1: the file is empty; begin with a copy of configs/recipes/smollm2_devil.yaml", place);
  for (const std::string& text_of_one : overrides) apply_override(root, text_of_one);
  check_known_keys(root, run_config_kind().shape);
  RunConfig config = run_config_kind().read({root, ""});
  resolve_defaults(config, root);
  check_rules(config, root);
  return config;
}

RunConfig load_run_config(const std::filesystem::path& file, const std::vector<std::string>& overrides) {
  std::string text;
  try {
    text = read_file(file, kMaxYamlBytes);
  } catch (const DataError& error) {  // not a regular file, or too large
    throw ConfigError(error.what());
  }
  return parse_run_config(text, file.string(), overrides);
}

std::string dump_run_config(const RunConfig& config) {
  std::string yaml;
  for (const YamlEntry& section : run_config_kind().write(config).entries) {
    yaml += section.key + ":\n";
    for (const YamlEntry& entry : section.value.entries) {
      yaml += fmt::format("  {}: {}\n", entry.key, yaml_flow(entry.value));
    }
  }
  return yaml;
}

}  // namespace rankwise
