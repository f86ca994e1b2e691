// Reads the files of a model directory that describe its text: tokenizer.json, tokenizer_config.json,
// special_tokens_map.json and chat_template.jinja. The last three are optional.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace rankwise {

struct TokenizerFiles {
  std::string place;                                        // the path of tokenizer.json
  std::string tokenizer_json;                               // its text, checked by check_tokenizer_json
  std::vector<std::pair<std::string, int64_t>> listed_ids;  // token and id of its "added_tokens"
  // A JSON list of the added tokens that the other files name, in the order in which transformers adds them.
  std::string added_tokens;
  std::string bos_token, eos_token, pad_token, unk_token;  // "" where there is none
  std::optional<std::string> chat_template;
  std::string fingerprint;  // hex SHA-256 over names and contents of the files read
};

// Throws NoInputError without tokenizer.json, DataError for a file that is malformed or too large.
TokenizerFiles read_tokenizer_files(const std::filesystem::path& model_dir);

}  // namespace rankwise
