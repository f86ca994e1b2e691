// YAML text <-> a small tree of our own. The only place that knows yaml-cpp.
// The accepted language is YAML without its traps: one document of valid UTF-8, no tabs, anchors, aliases, tags or
// duplicate keys, text as keys, and limits on size and depth. Scalars stay text: the schema says what they mean.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace rankwise {

inline constexpr uint64_t kMaxYamlBytes = 1ull << 20;

struct YamlEntry;

struct YamlNode {
  enum class Kind { kNull, kScalar, kList, kMap };
  Kind kind = Kind::kNull;
  std::string text;             // of a scalar
  bool quoted = false;          // a scalar written with quotes or as a block, so never a number, a boolean or a keyword
  std::string place;            // "recipe.yaml:14" or "--set train.max_steps=20"; empty when not read from a text
  std::vector<YamlNode> items;  // of a list
  std::vector<YamlEntry> entries;  // of a map, in the order of the text

  const YamlNode* find(std::string_view key) const;  // null: not a map, or no such key
  YamlNode* find(std::string_view key);
};

struct YamlEntry {
  std::string key;
  std::string place;
  YamlNode value;
};

YamlNode yaml_scalar(std::string text, bool quoted);

// What the text is called in messages. A whole file has an empty `key` and places with line numbers; the value of an
// override has the dotted key that it is for, and `place` alone.
struct YamlSource {
  std::string_view place;
  std::string_view key = {};
};

// An empty text (or only comments) is a null node. Throws ConfigError("PLACE:LINE: key: reason; remedy").
YamlNode parse_yaml(std::string_view text, const YamlSource& source);

// One line: scalars as they were meant, lists and maps in flow style.
std::string yaml_flow(const YamlNode& node);

// Throws ConfigError if the text is not what a person can read in a message: bad UTF-8, control characters, tabs.
void check_yaml_characters(std::string_view text, const YamlSource& source);

bool has_control_character(std::string_view text);

// A value as shown in a message: in quotes, shortened when long.
std::string shown(std::string_view text);

}  // namespace rankwise
