#include "configs/yaml_tree.h"

#include <fmt/format.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <optional>
#include <sstream>
#include <utility>

#include "base/check.h"

namespace rankwise {
namespace {

constexpr size_t kMaxDepth = 32;
constexpr size_t kMaxKeyBytes = 256;
constexpr size_t kMaxValues = 20'000;  // also bounds the search for duplicate keys, which is quadratic

std::string place_of(const YamlSource& source, int line) {
  return source.key.empty() ? fmt::format("{}:{}", source.place, line) : std::string(source.place);
}

// Builds the tree from the parser's events, and knows the dotted key of the spot for its messages.
class TreeBuilder final : public YAML::EventHandler {
 public:
  explicit TreeBuilder(const YamlSource& source) : source_(source) {}

  YamlNode take_root() { return std::move(root_); }

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (++num_documents_ > 1) fail(mark, "a second document begins here; keep one document in a file");
  }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override { add(mark, make(mark, "", anchor)); }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override { fail_on_anchor(mark); }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& text) override {
    YamlNode node = make(mark, tag, anchor);
    node.kind = YamlNode::Kind::kScalar;
    node.text = text;
    node.quoted = tag == "!";
    add(mark, std::move(node));
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    open(mark, make(mark, tag, anchor), YamlNode::Kind::kList);
  }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    open(mark, make(mark, tag, anchor), YamlNode::Kind::kMap);
  }
  void OnMapEnd() override { close(); }

 private:
  struct Frame {
    YamlNode node;
    std::optional<YamlEntry> entry;  // of a map: its key is read, its value is not
  };

  bool expects_key() const {
    return !stack_.empty() && stack_.back().node.kind == YamlNode::Kind::kMap && !stack_.back().entry;
  }

  std::string key_here() const {
    std::string key(source_.key);
    for (const Frame& frame : stack_) {
      if (frame.node.kind == YamlNode::Kind::kList) {
        key += fmt::format("[{}]", frame.node.items.size());
      } else if (frame.entry) {
        key += (key.empty() ? "" : ".") + frame.entry->key;
      }
    }
    return key;
  }

  [[noreturn]] void fail(const YAML::Mark& mark, std::string_view reason) const {
    const std::string key = key_here();
    throw ConfigError(
        fmt::format("{}: {}{}{}", place_of(source_, mark.line + 1), key, key.empty() ? "" : ": ", reason));
  }
  [[noreturn]] void fail_on_anchor(const YAML::Mark& mark) const {
    fail(mark, "anchors and aliases are not allowed; write the value out");
  }

  YamlNode make(const YAML::Mark& mark, std::string_view tag, YAML::anchor_t anchor) {
    if (anchor != YAML::NullAnchor) fail_on_anchor(mark);
    // yaml-cpp's marks for "none": "?" for plain scalars and collections, "!" for quoted scalars.
    if (!tag.empty() && tag != "?" && tag != "!")
      fail(mark, "tags are not allowed; remove the word that begins with !");
    if (++num_values_ > kMaxValues) fail(mark, fmt::format("more than {} values; the file is too large", kMaxValues));
    YamlNode node;
    node.place = place_of(source_, mark.line + 1);
    return node;
  }

  void open(const YAML::Mark& mark, YamlNode node, YamlNode::Kind kind) {
    if (expects_key()) fail(mark, "a key must be text, not a list or a map; check the brackets");
    if (stack_.size() >= kMaxDepth) fail(mark, fmt::format("nested more than {} deep; remove a level", kMaxDepth));
    node.kind = kind;
    stack_.push_back({std::move(node), std::nullopt});
  }

  void close() {
    YamlNode node = std::move(stack_.back().node);
    stack_.pop_back();
    store(std::move(node));
  }

  void add(const YAML::Mark& mark, YamlNode node) {
    if (expects_key()) {
      add_key(mark, std::move(node));
    } else {
      store(std::move(node));
    }
  }

  void add_key(const YAML::Mark& mark, YamlNode node) {
    if (node.kind != YamlNode::Kind::kScalar) fail(mark, "a key must be text, not null");
    if (node.text.size() > kMaxKeyBytes || has_control_character(node.text)) {
      fail(mark, fmt::format("{} is not a key; write at most {} bytes of one line", shown(node.text), kMaxKeyBytes));
    }
    Frame& frame = stack_.back();
    const auto& entries = frame.node.entries;
    const auto first = std::find_if(entries.begin(), entries.end(), [&](const auto& e) { return e.key == node.text; });
    frame.entry = YamlEntry{std::move(node.text), std::move(node.place), {}};
    if (first != entries.end()) fail(mark, fmt::format("given twice, first at {}; keep one", first->place));
  }

  void store(YamlNode node) {
    if (stack_.empty()) {
      root_ = std::move(node);
    } else if (Frame& frame = stack_.back(); frame.entry) {
      // The parser places a missing value at the next token, which may be lines below its key.
      if (node.kind == YamlNode::Kind::kNull) node.place = frame.entry->place;
      frame.entry->value = std::move(node);
      frame.node.entries.push_back(std::move(*std::exchange(frame.entry, std::nullopt)));
    } else {
      frame.node.items.push_back(std::move(node));
    }
  }

  YamlSource source_;
  YamlNode root_;
  std::vector<Frame> stack_;
  int num_documents_ = 0;
  size_t num_values_ = 0;
};

}  // namespace

YamlNode parse_yaml(std::string_view text, const YamlSource& source) {
  RW_CHECK(text.size() <= kMaxYamlBytes, ConfigError, "{}: {} bytes; the limit is {}", source.place, text.size(),
           kMaxYamlBytes);
  check_yaml_characters(text, source);
  TreeBuilder builder(source);
  try {
    std::istringstream stream{std::string(text)};
    YAML::Parser parser(stream);
    while (parser.HandleNextDocument(builder)) {
    }
  } catch (const YAML::Exception& error) {
    throw ConfigError(
        fmt::format("{}: not valid YAML: {}; check the indentation, and quote text that holds ': ' or ' #'",
                    place_of(source, error.mark.line + 1), error.msg));
  }
  return builder.take_root();
}

}  // namespace rankwise
