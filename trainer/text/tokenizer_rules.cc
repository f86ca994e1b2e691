#include "trainer/text/tokenizer_rules.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <unordered_map>
#include <utility>

#include "base/check.h"
#include "base/json.h"
#include "trainer/text/known_patterns.h"

namespace rankwise {
namespace {

using nlohmann::json;

constexpr uint64_t kMaxId = 1u << 22;
constexpr uint64_t kSparseAllowance = 1024;  // small vocabularies may have holes for reserved tokens

const json kNull;

const json& member(const json& object, const char* key) {
  const auto found = object.find(key);
  return found == object.end() ? kNull : *found;
}

std::string text_member(const json& object, const char* key, std::string_view place) {
  const json& value = member(object, key);
  RW_CHECK(value.is_string(), DataError, "{}: \"{}\" is {}, expected a string", place, key, value.type_name());
  return value.get<std::string>();
}

size_t num_characters(std::string_view utf8) {
  return static_cast<size_t>(std::count_if(utf8.begin(), utf8.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

// Every token of the file with its id, in both directions.
class Vocabulary {
 public:
  explicit Vocabulary(std::string_view place) : place_(place) {}

  void add(const std::string& token, uint64_t id) {
    RW_CHECK(id < kMaxId, DataError, "{}: token {} has id {}, the limit is {}", place_, quoted(token), id, kMaxId);
    const auto [holder, is_new] = token_of_.emplace(id, token);
    RW_CHECK(is_new || holder->second == token, DataError, "{}: id {} belongs to two tokens, {} and {}", place_, id,
             quoted(holder->second), quoted(token));
    const auto [known, is_first] = id_of_.emplace(token, id);
    RW_CHECK(is_first || known->second == id, DataError, "{}: token {} has two ids, {} and {}", place_, quoted(token),
             known->second, id);
    largest_ = std::max(largest_, id);
  }

  bool contains(const std::string& token) const { return id_of_.contains(token); }

  void check_dense() const {
    RW_CHECK(!id_of_.empty(), DataError, "{}: the vocabulary is empty", place_);
    RW_CHECK(largest_ < 2 * id_of_.size() + kSparseAllowance, DataError,
             "{}: {} tokens but the largest id is {}: the ids are sparse", place_, id_of_.size(), largest_);
  }

  static std::string quoted(const std::string& token) {
    return json(token.size() <= 64 ? token : token.substr(0, 61) + "...")
        .dump(-1, ' ', true, json::error_handler_t::replace);
  }

 private:
  std::string place_;
  std::unordered_map<uint64_t, std::string> token_of_;
  std::unordered_map<std::string, uint64_t> id_of_;
  uint64_t largest_ = 0;
};

// Unigram: [["token", score], ...]
void read_pieces(const json& pieces, Vocabulary& vocabulary, const std::string& place) {
  uint64_t id = 0;
  for (const json& piece : pieces) {
    RW_CHECK(piece.is_array() && piece.size() == 2 && piece[0].is_string() && piece[1].is_number(), DataError,
             "{}: entry {} is not a pair of token and score", place, id);
    vocabulary.add(piece[0].get<std::string>(), id++);
  }
}

void read_model_vocabulary(const json& model, Vocabulary& vocabulary, const std::string& place) {
  const json& vocab = member(model, "vocab");
  if (vocab.is_array()) return read_pieces(vocab, vocabulary, place);
  RW_CHECK(vocab.is_object(), DataError, "{}: \"vocab\" is {}, expected an object or a list", place, vocab.type_name());
  for (const auto& [token, id] : vocab.items()) {
    vocabulary.add(token, json_uint(id, fmt::format("{}: id of {}", place, Vocabulary::quoted(token))));
  }
}

void read_added_tokens(const json& tokens, Vocabulary& vocabulary, const std::string& place) {
  if (tokens.is_null()) return;
  RW_CHECK(tokens.is_array(), DataError, "{}: {}, expected a list", place, tokens.type_name());
  std::unordered_map<std::string, size_t> seen;
  for (const json& token : tokens) {
    const auto here = fmt::format("{}[{}]", place, seen.size());
    RW_CHECK(token.is_object(), DataError, "{}: {}, expected an object", here, token.type_name());
    const auto content = text_member(token, "content", here);
    RW_CHECK(!content.empty(), DataError, "{}: the token is empty", here);
    const auto [first, is_new] = seen.emplace(content, seen.size());
    RW_CHECK(is_new, DataError, "{}: token {} is already entry {}", here, Vocabulary::quoted(content), first->second);
    vocabulary.add(content, json_uint(member(token, "id"), here + ": id"));
  }
}

std::pair<std::string, std::string> read_merge(const json& merge, const std::string& place) {
  if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
    return {merge[0].get<std::string>(), merge[1].get<std::string>()};
  }
  RW_CHECK(merge.is_string(), DataError, "{}: neither \"a b\" nor [\"a\", \"b\"]", place);
  const auto text = merge.get<std::string>();
  const auto space = text.find(' ');
  RW_CHECK(space != std::string::npos && text.find(' ', space + 1) == std::string::npos, DataError,
           "{}: {} is not two tokens with one space between them", place, Vocabulary::quoted(text));
  return {text.substr(0, space), text.substr(space + 1)};
}

void check_merges(const json& model, const Vocabulary& vocabulary, const std::string& place) {
  const json& merges = member(model, "merges");
  RW_CHECK(merges.is_array(), DataError, "{}: {}, expected a list", place, merges.type_name());
  const json& prefix = member(model, "continuing_subword_prefix");
  const auto skipped = prefix.is_string() ? prefix.get<std::string>() : std::string();
  size_t rank = 0;
  for (const json& merge : merges) {
    const auto here = fmt::format("{}[{}]", place, rank++);
    const auto [left, right] = read_merge(merge, here);
    RW_CHECK(right.starts_with(skipped), DataError, "{}: {} lacks the prefix {}", here, Vocabulary::quoted(right),
             Vocabulary::quoted(skipped));
    for (const auto& token : std::array{left, right, left + right.substr(skipped.size())}) {
      RW_CHECK(vocabulary.contains(token), DataError, "{}: token {} is not in the vocabulary", here,
               Vocabulary::quoted(token));
    }
  }
}

void check_unknown_token(const json& model, const Vocabulary& vocabulary, const std::string& place) {
  const json& token = member(model, "unk_token");
  RW_CHECK(!token.is_string() || vocabulary.contains(token.get<std::string>()), DataError,
           "{}: unk_token: token {} is not in the vocabulary", place, token.dump());
  const json& id = member(model, "unk_id");
  const size_t num_pieces = member(model, "vocab").size();
  RW_CHECK(id.is_null() || json_uint(id, place + ": unk_id") < num_pieces, DataError,
           "{}: unk_id {} is not below the number of tokens, {}", place, id.dump(), num_pieces);
}

// {"String": "x"} or {"Regex": "x"}
void check_pattern(const json& component, const std::string& place) {
  const json& regex = member(member(component, "pattern"), "Regex");
  if (regex.is_null()) return;
  RW_CHECK(regex.is_string(), DataError, "{}: the pattern is {}, expected a string", place, regex.type_name());
  const auto pattern = regex.get<std::string>();
  RW_CHECK(is_known_pattern(pattern), DataError,
           "{}: the pattern {} is none that published tokenizers use, and an unknown one may take exponential time; if "
           "you trust it, add it to trainer/text/known_patterns.cc",
           place, json(pattern).dump());
}

// A chain of replacements that double a text would grow without limit, so none may make it longer.
void check_replacement(const json& component, const std::string& place) {
  const json& literal = member(member(component, "pattern"), "String");
  const size_t num_replaced = literal.is_string() ? num_characters(literal.get<std::string>()) : 1;
  const auto content = text_member(component, "content", place);
  RW_CHECK(num_replaced >= 1 && num_characters(content) <= num_replaced, DataError,
           "{}: replaces {} characters by {}; a replacement may not make text longer", place, num_replaced,
           num_characters(content));
}

// A normalizer, pre-tokenizer, post-processor or decoder with all those inside it.
void check_component(const json& component, const std::string& place) {
  if (component.is_null()) return;
  RW_CHECK(component.is_object(), DataError, "{}: {}, expected an object", place, component.type_name());
  const auto type = text_member(component, "type", place);
  const auto here = fmt::format("{}({})", place, type);
  check_pattern(component, here);
  if (type == "Replace") check_replacement(component, here);
  if (type == "FixedLength") {
    RW_CHECK(json_uint(member(component, "length"), here + ": length") > 0, DataError, "{}: length 0", here);
  }
  for (const char* children : {"normalizers", "pretokenizers", "processors", "decoders"}) {
    for (const json& child : member(component, children)) check_component(child, here);
  }
}

}  // namespace

void check_tokenizer_json(const json& file, std::string_view place) {
  RW_CHECK(file.is_object(), DataError, "{}: {}, expected an object", place, file.type_name());
  const json& model = member(file, "model");
  const auto model_place = fmt::format("{}: model", place);
  RW_CHECK(model.is_object(), DataError, "{}: {}, expected an object", model_place, model.type_name());
  const auto type = text_member(model, "type", model_place);
  RW_CHECK(type == "BPE" || type == "Unigram" || type == "WordPiece" || type == "WordLevel", DataError,
           "{}: unknown type {}; known are BPE, Unigram, WordPiece, WordLevel", model_place, Vocabulary::quoted(type));

  Vocabulary vocabulary{place};
  read_model_vocabulary(model, vocabulary, model_place);
  if (type == "BPE") check_merges(model, vocabulary, model_place + ": merges");
  read_added_tokens(member(file, "added_tokens"), vocabulary, fmt::format("{}: added_tokens", place));
  vocabulary.check_dense();
  check_unknown_token(model, vocabulary, model_place);
  for (const char* part : {"normalizer", "pre_tokenizer", "post_processor", "decoder"}) {
    check_component(member(file, part), fmt::format("{}: {}", place, part));
  }
}

}  // namespace rankwise
