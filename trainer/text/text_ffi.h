// Ownership and errors of the C interface in text/ffi, for tokenizer.cc and chat_template.cc.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/error.h"
#include "trainer/text/ffi/rankwise_text.h"

namespace rankwise {

inline rw_view view_of(std::string_view text) { return {text.data(), text.size()}; }

// A result of the library, freed when it goes.
class TextResult {
 public:
  TextResult() = default;
  explicit TextResult(rw_text text) noexcept : text_(text) {}
  TextResult(const TextResult&) = delete;
  TextResult& operator=(const TextResult&) = delete;
  ~TextResult() { rw_text_free(text_); }

  rw_text* out() noexcept { return &text_; }
  bool empty() const noexcept { return text_.data == nullptr; }
  std::string str() const { return {text_.data, text_.size}; }

 private:
  rw_text text_{};
};

class TokensResult {
 public:
  TokensResult() = default;
  TokensResult(const TokensResult&) = delete;
  TokensResult& operator=(const TokensResult&) = delete;
  ~TokensResult() { rw_tokens_free(tokens_); }

  rw_tokens* out() noexcept { return &tokens_; }
  std::span<const rw_token> items() const noexcept { return {tokens_.data, tokens_.size}; }

 private:
  rw_tokens tokens_{};
};

// Throws DataError("PLACE: message"), or the message alone for a place of "", unless the call succeeded.
inline void check_text_call(rw_text returned, std::string_view place = "") {
  const TextResult error(returned);
  if (error.empty()) return;
  throw DataError(place.empty() ? error.str() : std::string(place) + ": " + error.str());
}

struct FreeTokenizer {
  void operator()(rw_tokenizer* tokenizer) const noexcept { rw_tokenizer_free(tokenizer); }
};
struct FreeTemplate {
  void operator()(rw_template* compiled) const noexcept { rw_template_free(compiled); }
};
using TokenizerHandle = std::unique_ptr<rw_tokenizer, FreeTokenizer>;
using TemplateHandle = std::unique_ptr<rw_template, FreeTemplate>;

}  // namespace rankwise
