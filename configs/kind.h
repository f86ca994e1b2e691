// The kinds of value that a configuration key can hold. A Kind<T> says how T is described to people, read from the file
// and written back, so that a table of them is parser, dump and documentation at once. Internal to configs/.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "configs/run_config.h"
#include "configs/yaml_tree.h"

namespace rankwise {

// What documentation and the search for unknown keys need of a kind, without its C++ type.
struct FieldShape;
struct Shape {
  std::string type;                // "integer, 1 to 4096"
  std::vector<FieldShape> fields;  // of a record, or of each item of a list of records
  bool is_list = false;
};
struct FieldShape {
  std::string name;
  std::string doc;
  bool required = false;
  Shape shape;
};

// A node and the dotted key under which it stands.
struct Value {
  const YamlNode& node;
  std::string key;

  // Throws ConfigError("PLACE: key: reason"); the reason ends with "; remedy".
  [[noreturn]] void fail(std::string_view reason) const;
  Value item(size_t index) const { return {node.items[index], fmt::format("{}[{}]", key, index)}; }
};

std::string join_key(std::string_view parent, std::string_view name);

template <typename T>
struct Kind {
  Shape shape;
  std::function<T(const Value&)> read;  // throws ConfigError
  std::function<YamlNode(const T&)> write;
};

enum class Required { kNo, kYes };

// One key of a record S. The type of its member is known to the two functions alone.
template <typename S>
struct Field {
  FieldShape shape;
  std::function<void(S&, const Value& record)> read;
  std::function<YamlNode(const S&)> write;
};

struct NumberRange {
  double min;
  double max;
  bool without_min = false;
  bool without_max = false;
};
inline constexpr NumberRange kFraction{.min = 0, .max = 1, .without_max = true};

inline constexpr int64_t kMany = 1'000'000'000;  // the most of anything that is counted

Kind<int64_t> integer(int64_t min, int64_t max = kMany);
Kind<uint64_t> seed();
Kind<double> number(const NumberRange& range);
Kind<bool> boolean();
Kind<std::string> text();
Kind<std::filesystem::path> path();
Kind<NamesOrPattern> names_or_pattern();
Kind<LoraSection::PatternMap> pattern_map(int64_t min, int64_t max);
Kind<CheckpointSection::Resume> resume();
Kind<std::string> address_and_port();

// The index in `words` of the value's text. `planned` words get an answer of their own: not yet.
size_t index_of_word(const Value& value, const std::vector<std::string_view>& words,
                     const std::vector<std::string_view>& planned);
std::string describe_words(const std::vector<std::string_view>& words);
void require_list(const Value& value);
void require_map(const Value& value);

template <typename E>
Kind<E> choice(const std::vector<std::pair<std::string_view, E>>& choices, std::vector<std::string_view> planned = {}) {
  std::vector<std::string_view> words;
  std::vector<E> values;
  for (const auto& [word, value] : choices) {
    words.push_back(word);
    values.push_back(value);
  }
  return {{describe_words(words), {}},
          [=](const Value& value) { return values[index_of_word(value, words, planned)]; },
          [=](const E& value) {
            size_t i = 0;
            while (values[i] != value) ++i;
            return yaml_scalar(std::string(words[i]), false);
          }};
}

// `word` (null, or an unquoted keyword) stands for the empty optional.
template <typename T>
Kind<std::optional<T>> optional_kind(std::string_view word, const Kind<T>& kind) {
  const bool is_null = word == "null";
  return {{fmt::format("{}; or `{}`", kind.shape.type, word), {}},
          [=](const Value& value) -> std::optional<T> {
            const YamlNode& node = value.node;
            const bool is_word = node.kind == YamlNode::Kind::kScalar && !node.quoted && node.text == word;
            if (is_null ? node.kind == YamlNode::Kind::kNull : is_word) return std::nullopt;
            return kind.read(value);
          },
          [=](const std::optional<T>& value) {
            if (value) return kind.write(*value);
            return is_null ? YamlNode{} : yaml_scalar(std::string(word), false);
          }};
}

template <typename T>
Kind<std::vector<T>> list_of(const Kind<T>& kind, size_t min_items) {
  return {{fmt::format("list, each item: {}", kind.shape.type), kind.shape.fields, true},
          [=](const Value& value) {
            require_list(value);
            if (value.node.items.size() < min_items) value.fail("an empty list; give at least one item");
            std::vector<T> result;
            for (size_t i = 0; i < value.node.items.size(); ++i) result.push_back(kind.read(value.item(i)));
            return result;
          },
          [=](const std::vector<T>& values) {
            YamlNode node;
            node.kind = YamlNode::Kind::kList;
            for (const T& value : values) node.items.push_back(kind.write(value));
            return node;
          }};
}

// A key that may be left out unless it is required.
template <typename S, typename T>
Field<S> field(std::string name, T S::*member, const Kind<T>& kind, std::string doc,
               Required required = Required::kNo) {
  return {{name, std::move(doc), required == Required::kYes, kind.shape},
          [=](S& record, const Value& value) {
            const std::string key = join_key(value.key, name);
            if (const YamlNode* node = value.node.find(name)) {
              record.*member = kind.read({*node, key});
            } else if (required == Required::kYes) {
              Value{value.node, key}.fail("is required; add it");
            }
          },
          [=](const S& record) { return kind.write(record.*member); }};
}

// A record inside a record: read even when it is left out or empty, for its defaults and its required keys.
template <typename S, typename T>
Field<S> section(std::string name, T S::*member, const Kind<T>& kind, std::string doc) {
  return {{name, std::move(doc), false, kind.shape},
          [=](S& record, const Value& value) {
            YamlNode empty;
            empty.place = value.node.place;
            const YamlNode* node = value.node.find(name);
            record.*member = kind.read({node ? *node : empty, join_key(value.key, name)});
          },
          [=](const S& record) { return kind.write(record.*member); }};
}

// A map with fixed keys. Unknown keys are found beforehand (known_keys.h), so that no wrong value hides a wrong key.
template <typename S>
Kind<S> record(std::vector<Field<S>> fields) {
  Shape shape{"map", {}};
  for (const Field<S>& field : fields) shape.fields.push_back(field.shape);
  return {std::move(shape),
          [=](const Value& value) {
            if (value.node.kind != YamlNode::Kind::kNull) require_map(value);
            S result;
            for (const Field<S>& field : fields) field.read(result, value);
            return result;
          },
          [=](const S& value) {
            YamlNode node;
            node.kind = YamlNode::Kind::kMap;
            for (const Field<S>& field : fields) node.entries.push_back({field.shape.name, "", field.write(value)});
            return node;
          }};
}

}  // namespace rankwise
