// Ownership and errors of the C interface in text/ffi, for tokenizer.cc and chat_template.cc.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/error.h"
#include "trainer/text/ffi/rankwise_text.h"

#if defined(__SANITIZE_THREAD__)
extern "C" {
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}
#endif

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

// ThreadSanitizer sees what the uninstrumented Rust code does through libc, but not the locks that it holds meanwhile.
class UninstrumentedScope {
 public:
#if defined(__SANITIZE_THREAD__)
  UninstrumentedScope() noexcept {
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  }
  ~UninstrumentedScope() {
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  }
#else
  UninstrumentedScope() noexcept {}  // not defaulted: a variable of this type must not count as unused
#endif
  UninstrumentedScope(const UninstrumentedScope&) = delete;
  UninstrumentedScope& operator=(const UninstrumentedScope&) = delete;
};

// Calls function(arguments...) of the C interface. Throws DataError("PLACE: message") if it fails, or the message alone
// for a place of "".
template <typename... Parameters, typename... Arguments>
void call_text(std::string_view place, rw_text (*function)(Parameters...), Arguments... arguments) {
  const UninstrumentedScope scope;
  const TextResult error(function(arguments...));
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
