// A tokenizer small enough to know by heart, as JSON for tests to bend, and a directory to load it from.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "tests/support/scratch_directory.h"
#include "trainer/text/tokenizer.h"

namespace rankwise::testing {

inline nlohmann::json added_token(const std::string& content, int64_t id, bool special = true) {
  return {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", special}};
}

// 0 <unk>  1 a  2 b  3 c  4 ab  5 abc  6 (space)  7 <  8 s  9 >  10 <s> (special)  11 <tool> (added, not special)
inline nlohmann::json small_tokenizer() {
  auto tokenizer = nlohmann::json::parse(R"({
    "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "pre_tokenizer": null,
    "post_processor": {"type": "TemplateProcessing",
      "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
      "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
      "special_tokens": {"<s>": {"id": "<s>", "ids": [10], "tokens": ["<s>"]}}},
    "decoder": {"type": "Fuse"},
    "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
      "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
      "vocab": {"<unk>": 0, "a": 1, "b": 2, "c": 3, "ab": 4, "abc": 5, " ": 6, "<": 7, "s": 8, ">": 9,
                "<s>": 10, "<tool>": 11},
      "merges": ["a b", "ab c"]}})");
  tokenizer["added_tokens"] = {added_token("<s>", 10), added_token("<tool>", 11, false)};
  return tokenizer;
}

class TokenizerDirectory {
 public:
  explicit TokenizerDirectory(const nlohmann::json& tokenizer = small_tokenizer()) {
    files.add("tokenizer.json", tokenizer.dump());
  }
  Tokenizer load() const { return Tokenizer::load(files.path()); }

  ScratchDirectory files;
};

}  // namespace rankwise::testing
