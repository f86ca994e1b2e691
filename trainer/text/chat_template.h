// Renders a conversation to text with a Jinja chat template, as transformers' apply_chat_template(tokenize=False) does.
// The template comes with the model and is not trusted: no files, no environment, a fuel limit and an output limit.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace rankwise {

class Tokenizer;

struct ChatMessage {
  std::string role;  // system | user | assistant | tool
  std::string content;
};

// Thread-safe after construction.
class ChatTemplate {
 public:
  // source: Jinja text; name: for error messages (a file or "tokenizer_config.json"). The special tokens of the
  // tokenizer are the variables bos_token, eos_token, ... Throws DataError with name and line if it does not compile.
  // now: what strftime_now shows, in local time; pin it where a text must come out the same on another day.
  ChatTemplate(
      std::string source, std::string name, const Tokenizer& tokenizer,
      std::chrono::sys_seconds now = std::chrono::floor<std::chrono::seconds>(std::chrono::system_clock::now()));
  // Throws DataError: the template raised (raise_exception), ran out of fuel, or asked for what it may not have.
  std::string render(const std::vector<ChatMessage>& messages, bool add_generation_prompt) const;
  const std::string& fingerprint() const noexcept;  // hex SHA-256 of the source

  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;
  ~ChatTemplate();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace rankwise
