#include "trainer/text/chat_template.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "base/hash.h"
#include "trainer/text/text_ffi.h"
#include "trainer/text/tokenizer.h"

namespace rankwise {

struct ChatTemplate::Impl {
  TemplateHandle handle;
  std::string fingerprint;
};

namespace {

// A token that the model does not have is undefined in the template, not empty.
std::string template_variables(const Tokenizer& tokenizer) {
  nlohmann::json variables = nlohmann::json::object();
  const auto define = [&](const char* name, const std::string& token) {
    if (!token.empty()) variables[name] = token;
  };
  define("bos_token", tokenizer.bos_token());
  define("eos_token", tokenizer.eos_token());
  define("pad_token", tokenizer.pad_token());
  define("unk_token", tokenizer.unk_token());
  return variables.dump();
}

}  // namespace

ChatTemplate::ChatTemplate(std::string source, std::string name, const Tokenizer& tokenizer,
                           std::chrono::sys_seconds now)
    : impl_(std::make_unique<Impl>()) {
  const std::string variables = template_variables(tokenizer);
  rw_template* handle = nullptr;
  call_text("", rw_template_compile, view_of(source), view_of(name), view_of(variables), now.time_since_epoch().count(),
            &handle);
  impl_->handle.reset(handle);
  impl_->fingerprint = sha256_hex(source);
}

ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;
ChatTemplate::~ChatTemplate() = default;

std::string ChatTemplate::render(const std::vector<ChatMessage>& messages, bool add_generation_prompt) const {
  std::vector<rw_message> views;
  views.reserve(messages.size());
  for (const ChatMessage& message : messages) views.push_back({view_of(message.role), view_of(message.content)});
  TextResult text;
  call_text("", rw_template_render, impl_->handle.get(), views.data(), views.size(), add_generation_prompt, text.out());
  return text.str();
}

const std::string& ChatTemplate::fingerprint() const noexcept { return impl_->fingerprint; }

}  // namespace rankwise
