// A tokenizer small enough to predict by hand: one token a byte (ids 0 .. 255), five merges, and special tokens.
#pragma once

#include <filesystem>
#include <string>

#include "trainer/text/chat_template.h"
#include "trainer/text/tokenizer.h"

namespace rankwise::testing {

// Ids behind the 256 bytes: "\n\n" 256, "he" 257, "ll" 258, "hell" 259, " a" 260; then the special tokens.
inline constexpr int32_t kEndOfText = 261;  // <|endoftext|>: eos of plain text
inline constexpr int32_t kImStart = 262;    // <|im_start|>
inline constexpr int32_t kImEnd = 263;      // <|im_end|>
inline constexpr int32_t kBos = 264;        // <s>

struct TinyModel {
  bool adds_bos = false;  // by the post-processor, as Llama's does
  std::string eos_token = "<|endoftext|>";
};
Tokenizer make_tiny_tokenizer(const std::filesystem::path& dir, const TinyModel& model = {});

// ChatML: <|im_start|>ROLE\nCONTENT<|im_end|>\n
ChatTemplate make_chat_ml(const Tokenizer& tokenizer);

}  // namespace rankwise::testing
