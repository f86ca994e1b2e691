// Tokenising a rendered conversation so that only the template's own special tokens are special. "<|im_end|>" that a
// user typed stays ordinary text: it can neither end a turn nor forge one.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "trainer/text/chat_template.h"
#include "trainer/text/tokenizer.h"

namespace rankwise {

// Thread-safe; the tokenizer must outlive it.
class TemplatedTextEncoder {
 public:
  explicit TemplatedTextEncoder(const Tokenizer& tokenizer);

  // `rendered` is what the template made of the messages. The ranges of the result are those of `rendered`.
  // Messages without the text of a special token (nearly all): one call of the tokenizer, the same ids as transformers
  // gives. Otherwise the conversation is rendered again with a private-use character for the first character of each
  // such text; that shows where the real special tokens are, and only the pieces between them that hold a stand-in are
  // tokenised anew, as text. Throws DataError if the template does anything with such text but copy it.
  Encoding encode(const ChatTemplate& chat_template, const std::vector<ChatMessage>& messages,
                  std::string_view rendered) const;

 private:
  struct Special {
    std::string text;
    int32_t id;
  };
  class Assembler;
  size_t special_at(std::string_view text, size_t at) const;  // index into specials_, or its size
  bool holds_special(std::string_view text) const;
  std::string protect(std::string_view text) const;
  std::string unprotect(std::string_view text) const;
  size_t stand_in_at(std::string_view text, size_t at) const;  // index into specials_, or its size
  bool is_special_token(const Encoding& tokens, size_t i, std::string_view text) const;
  bool tokenizer_ignores_context() const;
  Encoding encode_piece(const std::string& piece, bool at_start) const;

  const Tokenizer* tokenizer_;
  std::vector<Special> specials_;
  std::array<bool, 256> starts_special_{};  // by first byte
  bool ignores_context_ = true;             // a piece behind a special token is tokenised as it is alone
};

}  // namespace rankwise
