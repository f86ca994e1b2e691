#include "trainer/text/tokenizer_files.h"

#include <map>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/json.h"
#include "trainer/text/tokenizer_rules.h"

namespace rankwise {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

constexpr uint64_t kTokenizerLimit = 64ull << 20;
constexpr uint64_t kSmallFileLimit = 4ull << 20;

constexpr const char* kTokenNames[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                       "pad_token", "cls_token", "mask_token"};
constexpr const char* kTokenLists[] = {"additional_special_tokens", "extra_special_tokens"};

// The files of one directory, hashed as they are read.
class Directory {
 public:
  explicit Directory(fs::path path) : path_(std::move(path)) {}

  fs::path path_of(const char* name) const { return path_ / name; }

  std::string read(const char* name, uint64_t limit_bytes) {
    std::string content = read_file(path_of(name), limit_bytes);
    hash_.update(fmt::format("{} {}\n", name, content.size()));
    hash_.update(content);
    return content;
  }

  std::optional<std::string> read_if_present(const char* name) {
    try {
      return read(name, kSmallFileLimit);
    } catch (const NoInputError&) {
      return std::nullopt;
    }
  }

  json read_object_if_present(const char* name) {
    const auto text = read_if_present(name);
    if (!text) return json::object();
    json object = parse_json(*text, path_of(name).native(), {.wide_integers_as_double = true});
    RW_CHECK(object.is_object(), DataError, "{}: {}, expected an object", path_of(name).native(), object.type_name());
    return object;
  }

  std::string fingerprint() { return hash_.hex(); }

 private:
  fs::path path_;
  Sha256 hash_;
};

bool flag(const json& token, const char* name, bool otherwise) {
  const auto found = token.find(name);
  return found != token.end() && found->is_boolean() ? found->get<bool>() : otherwise;
}

// "<s>" or {"content": "<s>", "lstrip": false, ...}, as transformers' AddedToken reads it.
json added_token(const json& value, const std::string& place) {
  const bool is_object = value.is_object();
  const json content = is_object ? value.value("content", json()) : value;
  RW_CHECK(content.is_string() && !content.get<std::string>().empty(), DataError,
           "{}: {}, expected the text of a token, or an object with a \"content\" that is not empty", place,
           value.type_name());
  const json flags = is_object ? value : json::object();
  const bool special = flag(flags, "special", !is_object);
  return {{"content", content},
          {"single_word", flag(flags, "single_word", false)},
          {"lstrip", flag(flags, "lstrip", false)},
          {"rstrip", flag(flags, "rstrip", false)},
          {"normalized", flag(flags, "normalized", !special)},
          {"special", special}};
}

std::string content_of(const json& token) { return token.at("content").get<std::string>(); }

// What tokenizer_config.json and special_tokens_map.json say, with transformers' precedence: the map counts only where
// the config has no "added_tokens_decoder".
class TokenSettings {
 public:
  TokenSettings(Directory& directory, const json& tokenizer_json)
      : place_(directory.path_of("tokenizer_config.json").native()),
        settings_(directory.read_object_if_present("tokenizer_config.json")) {
    const json map = directory.read_object_if_present("special_tokens_map.json");
    if (settings_.contains("added_tokens_decoder")) {
      read_decoder(settings_.at("added_tokens_decoder"));
      return;
    }
    settings_.update(map);
    for (const json& token : tokenizer_json.value("added_tokens", json::array())) {
      known_.emplace(content_of(token), added_token(token, place_));
    }
  }

  const json& settings() const noexcept { return settings_; }
  const std::string& place() const noexcept { return place_; }

  // "" where there is none.
  std::string named(const char* name) const {
    const json value = settings_.value(name, json());
    return value.is_null() ? std::string() : content_of(added_token(value, place_ + ": " + name));
  }

  json added_tokens() const {
    json tokens = listed_;
    for (const char* name : kTokenNames) add_special(tokens, settings_.value(name, json()), name);
    for (const char* name : kTokenLists) {
      const json list = settings_.value(name, json());
      for (const json& value : list) add_special(tokens, value, name);
    }
    return tokens;
  }

 private:
  // {"0": {"content": ...}, ...}
  void read_decoder(const json& decoder) {
    RW_CHECK(decoder.is_object(), DataError, "{}: added_tokens_decoder: {}, expected an object", place_,
             decoder.type_name());
    std::map<uint64_t, json> by_id;
    for (const auto& [id, value] : decoder.items()) {
      const auto here = fmt::format("{}: added_tokens_decoder: {}", place_, json(id).dump());
      const bool is_number = !id.empty() && id.size() < 10 && id.find_first_not_of("0123456789") == std::string::npos;
      RW_CHECK(is_number, DataError, "{}: the key is not a token id", here);
      by_id[std::stoull(id)] = added_token(value, here);
    }
    for (const auto& [id, token] : by_id) {
      listed_.push_back(token);
      known_.emplace(content_of(token), token);
    }
  }

  void add_special(json& tokens, const json& value, const char* name) const {
    if (value.is_null()) return;
    json token = added_token(value, place_ + ": " + name);
    const auto known = known_.find(content_of(token));
    if (known != known_.end()) token = known->second;
    token["special"] = true;
    tokens.push_back(token);
  }

  std::string place_;
  json settings_;
  json listed_ = json::array();
  std::map<std::string, json> known_;  // by content
};

// A string, or [{"name": "default", "template": "..."}, ...].
std::optional<std::string> template_of(const json& setting, const std::string& place) {
  if (setting.is_null()) return std::nullopt;
  if (setting.is_string()) return setting.get<std::string>();
  RW_CHECK(setting.is_array(), DataError, "{}: chat_template: {}, expected a string or a list", place,
           setting.type_name());
  for (const json& entry : setting) {
    const bool is_default = entry.is_object() && entry.value("name", json()) == "default";
    if (is_default && entry.value("template", json()).is_string()) return entry.at("template").get<std::string>();
  }
  throw DataError(fmt::format("{}: chat_template: none of the {} templates is named \"default\"; give one as a file",
                              place, setting.size()));
}

}  // namespace

TokenizerFiles read_tokenizer_files(const fs::path& model_dir) {
  Directory directory(model_dir);
  TokenizerFiles files;
  files.place = directory.path_of("tokenizer.json").native();
  files.tokenizer_json = directory.read("tokenizer.json", kTokenizerLimit);
  const json tokenizer = parse_json(files.tokenizer_json, files.place);
  check_tokenizer_json(tokenizer, files.place);
  for (const json& token : tokenizer.value("added_tokens", json::array())) {
    files.listed_ids.emplace_back(content_of(token), token.at("id").get<int64_t>());
  }

  const TokenSettings settings(directory, tokenizer);
  files.added_tokens = settings.added_tokens().dump();
  files.bos_token = settings.named("bos_token");
  files.eos_token = settings.named("eos_token");
  files.pad_token = settings.named("pad_token");
  files.unk_token = settings.named("unk_token");
  files.chat_template = directory.read_if_present("chat_template.jinja");
  if (!files.chat_template) {
    files.chat_template = template_of(settings.settings().value("chat_template", json()), settings.place());
  }
  files.fingerprint = directory.fingerprint();
  return files;
}

}  // namespace rankwise
