#include "configs/kind.h"

#include <arpa/inet.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <limits>

#include "base/check.h"

namespace rankwise {
namespace {

std::string what_it_is(const YamlNode& node) {
  switch (node.kind) {
    case YamlNode::Kind::kNull:
      return "null";
    case YamlNode::Kind::kList:
      return "a list";
    case YamlNode::Kind::kMap:
      return "a map";
    case YamlNode::Kind::kScalar:
      break;
  }
  return shown(node.text);
}

const std::string& scalar_text(const Value& value, std::string_view expected) {
  if (value.node.kind != YamlNode::Kind::kScalar) {
    value.fail(fmt::format("is {}; write {}", what_it_is(value.node), expected));
  }
  return value.node.text;
}

// Numbers, booleans and keywords are never quoted.
const std::string& bare_text(const Value& value, std::string_view expected) {
  const std::string& text = scalar_text(value, expected);
  if (value.node.quoted) value.fail(fmt::format("{} is quoted, so it is text; write {}", shown(text), expected));
  return text;
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }

std::string_view without_sign(std::string_view text) {
  if (text.starts_with('-')) text.remove_prefix(1);
  return text;
}

void refuse_leading_zero(const Value& value) {
  const std::string_view digits = without_sign(value.node.text);
  if (digits.size() > 1 && digits[0] == '0' && is_digit(digits[1])) {
    value.fail(
        fmt::format("{} has a leading zero, which YAML 1.1 reads as octal; write it without", shown(value.node.text)));
  }
}

template <typename Int>
Int read_integer(const Value& value, Int min, Int max) {
  const std::string expected = fmt::format("an integer from {} to {}", min, max);
  const std::string& text = bare_text(value, expected);
  refuse_leading_zero(value);
  Int result{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), result);
  const std::string_view digits = without_sign(text);
  const bool is_integer = !digits.empty() && std::all_of(digits.begin(), digits.end(), is_digit);
  if (!is_integer) value.fail(fmt::format("{} is not an integer; write {}", shown(text), expected));
  if (error != std::errc{} || result < min || result > max) {
    value.fail(fmt::format("{} is out of range; write {}", shown(text), expected));
  }
  return result;
}

std::string describe_range(const NumberRange& range) {
  return fmt::format("number, {} {} and {} {}", range.without_min ? "more than" : "at least", range.min,
                     range.without_max ? "less than" : "at most", range.max);
}

double read_number(const Value& value, const NumberRange& range) {
  const std::string expected = "a " + describe_range(range);
  const std::string& text = bare_text(value, expected);
  refuse_leading_zero(value);
  double result = 0;
  const char* end_of_text = text.data() + text.size();
  const auto [end, error] = std::from_chars(text.data(), end_of_text, result);
  // from_chars also takes inf and nan.
  if (error == std::errc::invalid_argument || end != end_of_text ||
      text.find_first_not_of("0123456789.eE+-") != text.npos) {
    value.fail(fmt::format("{} is not a number; write {}, such as 0.5 or 2.0e-4", shown(text), expected));
  }
  const bool is_low = range.without_min ? result <= range.min : result < range.min;
  const bool is_high = range.without_max ? result >= range.max : result > range.max;
  if (error != std::errc{} || is_low || is_high) {
    value.fail(fmt::format("{} is out of range; write {}", shown(text), expected));
  }
  return result == 0 ? 0.0 : result;  // -0 is 0
}

std::string read_text(const Value& value) {
  const std::string& text = scalar_text(value, "text");
  if (text.empty()) value.fail("is empty; write text");
  if (has_control_character(text)) value.fail(fmt::format("{} holds a control character; remove it", shown(text)));
  return text;
}

// Numeric addresses only: what is bound must not depend on a name service.
bool is_address_and_port(std::string_view text) {
  const size_t colon = text.rfind(':');
  if (colon == text.npos) return false;
  const std::string_view port = text.substr(colon + 1);
  uint16_t number = 0;
  const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), number);
  if (error != std::errc{} || end != port.data() + port.size()) return false;
  std::string_view address = text.substr(0, colon);
  const bool is_v6 = address.starts_with('[') && address.ends_with(']');
  if (is_v6) address = address.substr(1, address.size() - 2);
  in6_addr parsed{};
  return inet_pton(is_v6 ? AF_INET6 : AF_INET, std::string(address).c_str(), &parsed) == 1;
}

template <typename Number>
YamlNode write_number(const Number& value) {
  return yaml_scalar(fmt::format("{}", value), false);
}

YamlNode write_text(const std::string& value) { return yaml_scalar(value, true); }

YamlNode write_path(const std::filesystem::path& value) { return write_text(value.string()); }

}  // namespace

void Value::fail(std::string_view reason) const {
  const std::string shown_key = key.empty() ? "" : key + ": ";
  throw ConfigError(fmt::format("{}: {}{}", node.place, shown_key, reason));
}

std::string join_key(std::string_view parent, std::string_view name) {
  return parent.empty() ? std::string(name) : fmt::format("{}.{}", parent, name);
}

void require_list(const Value& value) {
  if (value.node.kind != YamlNode::Kind::kList) {
    value.fail(fmt::format("is {}; write a list: [a, b]", what_it_is(value.node)));
  }
}

void require_map(const Value& value) {
  if (value.node.kind != YamlNode::Kind::kMap) {
    value.fail(fmt::format("is {}; write a map of keys: {{key: value}}", what_it_is(value.node)));
  }
}

std::string describe_words(const std::vector<std::string_view>& words) {
  return fmt::format("{}`{}`", words.size() > 1 ? "one of " : "", fmt::join(words, "`, `"));
}

size_t index_of_word(const Value& value, const std::vector<std::string_view>& words,
                     const std::vector<std::string_view>& planned) {
  const std::string expected = fmt::format("{}", fmt::join(words, ", "));
  const std::string& text = scalar_text(value, words.size() > 1 ? "one of " + expected : expected);
  if (const auto it = std::find(words.begin(), words.end(), text); it != words.end()) {
    return static_cast<size_t>(it - words.begin());
  }
  const bool is_planned = std::find(planned.begin(), planned.end(), text) != planned.end();
  value.fail(
      fmt::format("{} {}; supported: {}", shown(text), is_planned ? "is not built yet" : "is not known", expected));
}

Kind<int64_t> integer(int64_t min, int64_t max) {
  const std::string range = max == kMany ? fmt::format("at least {}", min) : fmt::format("{} to {}", min, max);
  return {{"integer, " + range, {}},
          [=](const Value& value) { return read_integer(value, min, max); },
          write_number<int64_t>};
}

Kind<uint64_t> seed() {
  constexpr uint64_t kMax = std::numeric_limits<uint64_t>::max();
  return {{"integer, 0 to 2^64 - 1", {}},
          [](const Value& value) { return read_integer<uint64_t>(value, 0, kMax); },
          write_number<uint64_t>};
}

Kind<double> number(const NumberRange& range) {
  return {
      {describe_range(range), {}}, [=](const Value& value) { return read_number(value, range); }, write_number<double>};
}

Kind<bool> boolean() {
  return {{"`true` or `false`", {}},
          [](const Value& value) {
            const std::string& text = bare_text(value, "true or false");
            if (text != "true" && text != "false") {
              value.fail(fmt::format("{} is not a boolean here; write true or false", shown(text)));
            }
            return text == "true";
          },
          write_number<bool>};
}

Kind<std::string> text() { return {{"text", {}}, read_text, write_text}; }

Kind<std::filesystem::path> path() {
  return {{"path", {}}, [](const Value& value) { return std::filesystem::path(read_text(value)); }, write_path};
}

Kind<NamesOrPattern> names_or_pattern() {
  const auto names = list_of(text(), 1);
  return {{"list of names, or a regular expression", {}},
          [=](const Value& value) -> NamesOrPattern {
            if (value.node.kind == YamlNode::Kind::kList) return names.read(value);
            return read_text(value);
          },
          [=](const NamesOrPattern& value) {
            const auto* list = std::get_if<std::vector<std::string>>(&value);
            return list ? names.write(*list) : write_text(std::get<std::string>(value));
          }};
}

Kind<LoraSection::PatternMap> pattern_map(int64_t min, int64_t max) {
  using PatternMap = LoraSection::PatternMap;
  return {{fmt::format("map, each pattern to an integer, {} to {}", min, max), {}},
          [=](const Value& value) {
            require_map(value);
            PatternMap result;
            for (const YamlEntry& entry : value.node.entries) {
              const Value item{entry.value, join_key(value.key, entry.key)};
              if (entry.key.empty()) item.fail("the pattern is empty; write a module name");
              result.emplace_back(entry.key, read_integer(item, min, max));
            }
            return result;
          },
          [](const PatternMap& map) {
            YamlNode node;
            node.kind = YamlNode::Kind::kMap;
            for (const auto& [pattern, number] : map) node.entries.push_back({pattern, "", write_number(number)});
            return node;
          }};
}

Kind<CheckpointSection::Resume> resume() {
  using Mode = CheckpointSection::Mode;
  using Resume = CheckpointSection::Resume;
  const auto word = choice<Mode>({{"auto", Mode::kAuto}, {"required", Mode::kRequired}, {"never", Mode::kNever}});
  return {{"`auto`, `required`, `never` or the path of a checkpoint", {}},
          [=](const Value& value) -> Resume {
            const std::string directory = read_text(value);
            const bool is_word = directory == "auto" || directory == "required" || directory == "never";
            return is_word ? Resume{word.read(value), {}} : Resume{Mode::kDirectory, directory};
          },
          [=](const Resume& value) {
            return value.mode == Mode::kDirectory ? write_path(value.directory) : word.write(value.mode);
          }};
}

Kind<std::string> address_and_port() {
  return {{"text, `ADDRESS:PORT`", {}},
          [](const Value& value) {
            const std::string text = read_text(value);
            if (!is_address_and_port(text)) {
              value.fail(
                  fmt::format("{} is not ADDRESS:PORT; write for example 127.0.0.1:9464 or [::1]:9464", shown(text)));
            }
            return text;
          },
          write_text};
}

}  // namespace rankwise
