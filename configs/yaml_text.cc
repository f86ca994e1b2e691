// The parts of yaml_tree.h that need no YAML parser: characters, nodes, and writing.
#include <algorithm>
#include <array>
#include <cctype>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/check.h"
#include "configs/yaml_tree.h"

namespace rankwise {
namespace {

bool is_utf8(std::string_view text) {
  try {
    static_cast<void>(nlohmann::json(text).dump());
    return true;
  } catch (const nlohmann::json::type_error&) {
    return false;
  }
}

// A JSON string is a YAML double-quoted scalar.
std::string double_quoted(std::string_view text) { return nlohmann::json(text).dump(); }

// What is wrong with a line, or null. A final carriage return is a DOS line end.
const char* fault_of(std::string_view line) {
  if (line.ends_with('\r')) line.remove_suffix(1);
  if (line.starts_with("\xEF\xBB\xBF")) return "a byte-order mark; save the file as UTF-8 without one";
  if (!is_utf8(line)) return "not valid UTF-8; save the file as UTF-8";
  if (line.find('\t') != line.npos) return "a tab character; indent with spaces";
  return has_control_character(line) ? "a control character; remove it" : nullptr;
}

// Whether every YAML reader takes the bare text for a string.
bool reads_as_text(std::string_view text) {
  static constexpr std::array kOtherMeaning = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"};
  const auto is_plain = [](unsigned char c) { return std::isalnum(c) || c == '_' || c == '-' || c == '/' || c == '.'; };
  if (text.empty() || !(std::isalpha(static_cast<unsigned char>(text[0])) || text[0] == '/')) return false;
  if (!std::all_of(text.begin(), text.end(), is_plain)) return false;
  std::string lower(text);
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return std::find(kOtherMeaning.begin(), kOtherMeaning.end(), lower) == kOtherMeaning.end();
}

std::string string_text(std::string_view text) { return reads_as_text(text) ? std::string(text) : double_quoted(text); }

}  // namespace

const YamlNode* YamlNode::find(std::string_view key) const {
  const auto it =
      std::find_if(entries.begin(), entries.end(), [&](const YamlEntry& entry) { return entry.key == key; });
  return it == entries.end() ? nullptr : &it->value;
}

YamlNode* YamlNode::find(std::string_view key) { return const_cast<YamlNode*>(std::as_const(*this).find(key)); }

YamlNode yaml_scalar(std::string text, bool quoted) {
  YamlNode node;
  node.kind = YamlNode::Kind::kScalar;
  node.text = std::move(text);
  node.quoted = quoted;
  return node;
}

void check_yaml_characters(std::string_view text, const YamlSource& source) {
  int line_number = 1;
  for (size_t start = 0; start <= text.size(); ++line_number) {
    const size_t end = std::min(text.find('\n', start), text.size());
    if (const char* fault = fault_of(text.substr(start, end - start))) {
      const std::string line = source.key.empty() ? fmt::format(":{}", line_number) : "";
      throw ConfigError(fmt::format("{}{}: {}", source.place, line, fault));
    }
    start = end + 1;
  }
}

std::string yaml_flow(const YamlNode& node) {
  if (node.kind == YamlNode::Kind::kNull) return "null";
  if (node.kind == YamlNode::Kind::kScalar) return node.quoted ? string_text(node.text) : node.text;
  std::vector<std::string> parts;
  for (const YamlNode& item : node.items) parts.push_back(yaml_flow(item));
  for (const YamlEntry& entry : node.entries) parts.push_back(string_text(entry.key) + ": " + yaml_flow(entry.value));
  const std::string inside = fmt::format("{}", fmt::join(parts, ", "));
  return node.kind == YamlNode::Kind::kList ? "[" + inside + "]" : "{" + inside + "}";
}

bool has_control_character(std::string_view text) {
  return std::any_of(text.begin(), text.end(), [](unsigned char c) { return c < ' ' || c == 127; });
}

std::string shown(std::string_view text) {
  constexpr size_t kMost = 80;
  if (text.size() <= kMost) return double_quoted(text);
  size_t cut = kMost;
  while (cut > 0 && (static_cast<unsigned char>(text[cut]) & 0xC0) == 0x80) --cut;  // not inside a character
  return double_quoted(text.substr(0, cut)) + fmt::format("... ({} bytes)", text.size());
}

}  // namespace rankwise
