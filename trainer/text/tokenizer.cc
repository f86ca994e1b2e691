#include "trainer/text/tokenizer.h"

#include <nlohmann/json.hpp>

#include "base/check.h"
#include "base/json.h"
#include "trainer/text/text_ffi.h"
#include "trainer/text/tokenizer_files.h"

namespace rankwise {

struct Tokenizer::Impl {
  TokenizerFiles files;
  TokenizerHandle handle;
  int64_t vocab_size = 0;
  std::vector<std::string> special_tokens;
};

namespace {

TokenizerHandle load_library(const TokenizerFiles& files) {
  rw_tokenizer* handle = nullptr;
  call_text(files.place, rw_tokenizer_load, view_of(files.tokenizer_json), view_of(files.added_tokens), &handle);
  return TokenizerHandle(handle);
}

// The library gives an added token that is not in the model's vocabulary the next free id, whatever the file says, and
// finds out only while encoding that its post-processor names a token that is not there.
void check_consistent(const Tokenizer& tokenizer, const TokenizerFiles& files) {
  for (const auto& [token, id] : files.listed_ids) {
    const int64_t given = tokenizer.id_of(token).value_or(-1);
    RW_CHECK(given == id, DataError, "{}: added token {} is listed with id {}, but the vocabulary leads to id {}",
             files.place, nlohmann::json(token).dump(), id, given);
  }
  for (const int32_t id : tokenizer.encode("a", true, SpecialTokens::kRecognise).ids) {
    RW_CHECK(id < tokenizer.vocab_size(), DataError, "{}: the post-processor adds id {}, but there are only {} tokens",
             files.place, id, tokenizer.vocab_size());
  }
}

}  // namespace

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Tokenizer Tokenizer::load(const std::filesystem::path& model_dir) {
  auto impl = std::make_unique<Impl>();
  impl->files = read_tokenizer_files(model_dir);
  impl->handle = load_library(impl->files);
  impl->files.tokenizer_json = {};  // up to 64 MiB that nobody needs again

  TextResult info_text;
  call_text(impl->files.place, rw_tokenizer_info, impl->handle.get(), info_text.out());
  const auto info = nlohmann::json::parse(info_text.str());
  impl->vocab_size = info.at("vocab_size").get<int64_t>();
  impl->special_tokens = info.at("special_tokens").get<std::vector<std::string>>();

  Tokenizer tokenizer(std::move(impl));
  check_consistent(tokenizer, tokenizer.impl_->files);
  return tokenizer;
}

Encoding Tokenizer::encode(std::string_view text, bool add_special_tokens, SpecialTokens special) const {
  TokensResult tokens;
  call_text(impl_->files.place, rw_tokenizer_encode, impl_->handle.get(), view_of(text), add_special_tokens,
            special == SpecialTokens::kAsText, tokens.out());
  Encoding encoding;
  encoding.ids.reserve(tokens.items().size());
  encoding.begins.reserve(tokens.items().size());
  encoding.ends.reserve(tokens.items().size());
  for (const rw_token& token : tokens.items()) {
    encoding.ids.push_back(static_cast<int32_t>(token.id));
    encoding.begins.push_back(token.begin);
    encoding.ends.push_back(token.end);
  }
  return encoding;
}

std::string Tokenizer::decode(const std::vector<int32_t>& ids, bool skip_special_tokens) const {
  std::vector<uint32_t> unsigned_ids;
  unsigned_ids.reserve(ids.size());
  for (const int32_t id : ids) {
    RW_CHECK(id >= 0, DataError, "{}: decode: id {} at position {} is negative", impl_->files.place, id,
             unsigned_ids.size());
    unsigned_ids.push_back(static_cast<uint32_t>(id));
  }
  TextResult text;
  call_text(impl_->files.place, rw_tokenizer_decode, impl_->handle.get(), unsigned_ids.data(), unsigned_ids.size(),
            skip_special_tokens, text.out());
  return text.str();
}

std::optional<int32_t> Tokenizer::id_of(std::string_view token) const {
  int64_t id = -1;
  call_text(impl_->files.place, rw_tokenizer_id, impl_->handle.get(), view_of(token), &id);
  return id < 0 ? std::nullopt : std::optional(static_cast<int32_t>(id));
}

int64_t Tokenizer::vocab_size() const noexcept { return impl_->vocab_size; }
const std::vector<std::string>& Tokenizer::special_tokens() const noexcept { return impl_->special_tokens; }
const std::string& Tokenizer::bos_token() const noexcept { return impl_->files.bos_token; }
const std::string& Tokenizer::eos_token() const noexcept { return impl_->files.eos_token; }
const std::string& Tokenizer::pad_token() const noexcept { return impl_->files.pad_token; }
const std::string& Tokenizer::unk_token() const noexcept { return impl_->files.unk_token; }
const std::optional<std::string>& Tokenizer::chat_template() const noexcept { return impl_->files.chat_template; }
const std::string& Tokenizer::fingerprint() const noexcept { return impl_->files.fingerprint; }

}  // namespace rankwise
