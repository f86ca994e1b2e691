// A Hugging Face fast tokenizer (tokenizer.json), run by the `tokenizers` library behind the C interface of text/ffi.
// Same ids as transformers' AutoTokenizer gives for the same files and text, wherever that runs tokenizer.json as it
// is; for a few classes (LlamaTokenizer with a "Prepend" normalizer, T5Tokenizer) transformers 5 builds a pipeline of
// its own.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace rankwise {

// Token ids with the half-open byte range [begin, end) of the text that each one covers.
struct Encoding {
  std::vector<int32_t> ids;
  std::vector<uint32_t> begins;
  std::vector<uint32_t> ends;
};

enum class SpecialTokens {
  kRecognise,  // "<|im_end|>" in the text is the special token: for text that a chat template made
  kAsText,     // "<|im_end|>" in the text is nine ordinary characters or so: for text that a user wrote
};

// Thread-safe after construction. Throws NoInputError for a missing file and DataError for one that is malformed or
// hostile (see tokenizer_rules.h for what is refused), with the file and the reason.
class Tokenizer {
 public:
  // Reads DIR/tokenizer.json and, where present, DIR/tokenizer_config.json and DIR/special_tokens_map.json.
  static Tokenizer load(const std::filesystem::path& model_dir);

  // add_special_tokens: let the post-processor add BOS and the like, as `tokenizer(text)` does in transformers.
  // It must be false for text that came out of a chat template.
  Encoding encode(std::string_view text, bool add_special_tokens, SpecialTokens special) const;
  std::string decode(const std::vector<int32_t>& ids, bool skip_special_tokens) const;

  int64_t vocab_size() const noexcept;                              // with added tokens: 1 + the largest id
  std::optional<int32_t> id_of(std::string_view token) const;       // an exact vocabulary or added token
  const std::vector<std::string>& special_tokens() const noexcept;  // contents of the added tokens marked special
  const std::string& bos_token() const noexcept;                    // "" where there is none; likewise the next three
  const std::string& eos_token() const noexcept;
  const std::string& pad_token() const noexcept;
  const std::string& unk_token() const noexcept;
  const std::optional<std::string>& chat_template() const noexcept;  // of tokenizer_config.json or chat_template.jinja
  const std::string& fingerprint() const noexcept;  // hex SHA-256 over the files read, for checkpoints and caches

  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace rankwise
