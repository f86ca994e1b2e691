#include "configs/known_keys.h"

#include <algorithm>

#include "base/check.h"
#include "base/nearest.h"

namespace rankwise {
namespace {

std::string_view last_word(std::string_view key) { return key.substr(key.rfind('.') + 1); }

void append_keys(const Shape& shape, const std::string& prefix, std::vector<std::string>& keys) {
  for (const FieldShape& field : shape.fields) {
    const std::string key = prefix + field.name;
    if (field.shape.fields.empty() || field.shape.is_list) keys.push_back(key);
    append_keys(field.shape, key + (field.shape.is_list ? "[]." : "."), keys);
  }
}

class KeyCheck {
 public:
  explicit KeyCheck(const Shape& root) : all_(dotted_keys(root)) {}

  void check(const Value& value, const Shape& shape) const {
    for (size_t i = 0; i < value.node.items.size(); ++i) check(value.item(i), shape);
    for (const YamlEntry& entry : value.node.entries) {
      const auto is_named = [&](const FieldShape& field) { return field.name == entry.key; };
      const auto it = std::find_if(shape.fields.begin(), shape.fields.end(), is_named);
      if (it == shape.fields.end()) fail(entry, value.key, shape);
      if (!it->shape.fields.empty()) check({entry.value, join_key(value.key, entry.key)}, it->shape);
    }
  }

 private:
  [[noreturn]] void fail(const YamlEntry& entry, const std::string& parent, const Shape& shape) const {
    std::vector<std::string> candidates;
    for (const FieldShape& sibling : shape.fields) candidates.push_back(join_key(parent, sibling.name));
    candidates.insert(candidates.end(), all_.begin(), all_.end());
    const std::string key = join_key(parent, entry.key);
    throw ConfigError(fmt::format("{}: {}: unknown key; nearest: {}", entry.place, key, nearest_key(key, candidates)));
  }

  std::vector<std::string> all_;
};

}  // namespace

std::vector<std::string> dotted_keys(const Shape& root) {
  std::vector<std::string> keys;
  append_keys(root, "", keys);
  return keys;
}

std::string nearest_key(std::string_view key, const std::vector<std::string>& candidates) {
  const auto is_same_word = [&](const std::string& known) { return last_word(known) == last_word(key); };
  const auto elsewhere = std::find_if(candidates.begin(), candidates.end(), is_same_word);
  return elsewhere != candidates.end() ? *elsewhere : nearest_name(key, candidates);
}

void check_known_keys(const YamlNode& root, const Shape& shape) { KeyCheck(shape).check({root, ""}, shape); }

}  // namespace rankwise
