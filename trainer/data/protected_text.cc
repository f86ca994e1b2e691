#include "trainer/data/protected_text.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace rankwise {
namespace {

// U+F0000 + k stands for the first character of special token k; the plane has room for 65,534.
constexpr uint32_t kFirstStandIn = 0xF0000;
constexpr size_t kStandInBytes = 4;
constexpr size_t kMaxSpecials = 0xFFFD;

std::string stand_in(size_t k) {
  const uint32_t c = kFirstStandIn + static_cast<uint32_t>(k);
  return {static_cast<char>(0xF0 | (c >> 18)), static_cast<char>(0x80 | ((c >> 12) & 0x3F)),
          static_cast<char>(0x80 | ((c >> 6) & 0x3F)), static_cast<char>(0x80 | (c & 0x3F))};
}

size_t bytes_of_first_character(std::string_view text) {
  const auto lead = static_cast<unsigned char>(text.front());
  return lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
}

void append(Encoding& to, const Encoding& from, size_t i, int64_t shift) {
  to.ids.push_back(from.ids[i]);
  to.begins.push_back(static_cast<uint32_t>(from.begins[i] + shift));
  to.ends.push_back(static_cast<uint32_t>(from.ends[i] + shift));
}

}  // namespace

TemplatedTextEncoder::TemplatedTextEncoder(const Tokenizer& tokenizer) : tokenizer_(&tokenizer) {
  for (const std::string& text : tokenizer.special_tokens()) {
    const auto id = tokenizer.id_of(text);
    if (text.empty() || !id) continue;
    specials_.push_back({text, *id});
    starts_special_[static_cast<unsigned char>(text.front())] = true;
  }
  RW_CHECK(specials_.size() <= kMaxSpecials, DataError, "the tokenizer has {} special tokens, more than {}",
           specials_.size(), kMaxSpecials);
  ignores_context_ = tokenizer_ignores_context();
}

size_t TemplatedTextEncoder::special_at(std::string_view text, size_t at) const {
  if (!starts_special_[static_cast<unsigned char>(text[at])]) return specials_.size();
  const std::string_view rest = text.substr(at);
  const auto found = std::find_if(specials_.begin(), specials_.end(),
                                  [&](const Special& special) { return rest.starts_with(special.text); });
  return static_cast<size_t>(found - specials_.begin());
}

bool TemplatedTextEncoder::holds_special(std::string_view text) const {
  for (size_t i = 0; i < text.size(); ++i) {
    if (special_at(text, i) < specials_.size()) return true;
  }
  return false;
}

std::string TemplatedTextEncoder::protect(std::string_view text) const {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    const size_t k = special_at(text, i);
    const bool found = k < specials_.size();
    const size_t taken = found ? bytes_of_first_character(specials_[k].text) : 1;
    out += found ? stand_in(k) : std::string(text.substr(i, taken));
    i += taken;
  }
  return out;
}

size_t TemplatedTextEncoder::stand_in_at(std::string_view text, size_t at) const {
  const std::string_view c = text.substr(at, kStandInBytes);
  if (c.size() < kStandInBytes || c[0] != '\xF3' || (c[1] & 0x30) != 0x30) return specials_.size();
  const size_t k = (c[1] & 0x0Fu) << 12 | (c[2] & 0x3Fu) << 6 | (c[3] & 0x3Fu);
  return std::min(k, specials_.size());
}

std::string TemplatedTextEncoder::unprotect(std::string_view text) const {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    const size_t k = stand_in_at(text, i);
    const bool found = k < specials_.size();
    const std::string_view original = found ? std::string_view(specials_[k].text) : text.substr(i);
    out += original.substr(0, found ? bytes_of_first_character(original) : 1);
    i += found ? kStandInBytes : 1;
  }
  return out;
}

// By its text too: the unknown token is special, but the tokenizer also gives its id to characters it lacks.
bool TemplatedTextEncoder::is_special_token(const Encoding& tokens, size_t i, std::string_view text) const {
  const std::string_view covered = text.substr(tokens.begins[i], tokens.ends[i] - tokens.begins[i]);
  return std::any_of(specials_.begin(), specials_.end(), [&](const Special& special) {
    return special.id == tokens.ids[i] && covered.find(special.text) != std::string_view::npos;
  });
}

// A sentencepiece tokenizer may put "▁" before the first piece of a text only. Others treat every piece alike.
bool TemplatedTextEncoder::tokenizer_ignores_context() const {
  if (specials_.empty()) return true;
  Encoding behind = tokenizer_->encode(specials_.front().text + "a", false, SpecialTokens::kRecognise);
  behind.ids.erase(behind.ids.begin());
  return behind.ids == tokenizer_->encode("a", false, SpecialTokens::kRecognise).ids;
}

// Where context matters, a line break in front takes the place of "first"; its own tokens are cut off again. It is left
// out where it would grow together with the piece.
Encoding TemplatedTextEncoder::encode_piece(const std::string& piece, bool at_start) const {
  if (!at_start && !ignores_context_) {
    const Encoding anchored = tokenizer_->encode("\n" + piece, false, SpecialTokens::kAsText);
    const auto cut = static_cast<size_t>(
        std::find_if(anchored.ends.begin(), anchored.ends.end(), [](uint32_t end) { return end > 1; }) -
        anchored.ends.begin());
    if (cut < anchored.ids.size() && anchored.begins[cut] == 1) {
      Encoding tokens;
      for (size_t i = cut; i < anchored.ids.size(); ++i) append(tokens, anchored, i, -1);
      return tokens;
    }
  }
  return tokenizer_->encode(piece, false, SpecialTokens::kAsText);
}

// Builds the encoding of the unprotected text out of that of the protected one, piece by piece.
class TemplatedTextEncoder::Assembler {
 public:
  Assembler(const TemplatedTextEncoder& encoder, std::string_view text, const Encoding& tokens)
      : encoder_(encoder), text_(text), tokens_(tokens) {}

  Encoding run() {
    for (size_t i = 0; i < tokens_.ids.size(); ++i) {
      if (!encoder_.is_special_token(tokens_, i, text_)) continue;
      add_piece(i, tokens_.begins[i]);
      copy_tokens(i + 1);
      text_at_ = tokens_.ends[i];
    }
    add_piece(tokens_.ids.size(), text_.size());
    return std::move(out_);
  }

 private:
  // Text up to text_end, which tokens up to token_end cover.
  void add_piece(size_t token_end, size_t text_end) {
    const std::string_view piece = text_.substr(text_at_, text_end - text_at_);
    const std::string plain = encoder_.unprotect(piece);
    if (plain == piece) return copy_tokens(token_end);
    const auto place = static_cast<int64_t>(text_at_) + shift_;
    const Encoding fresh = encoder_.encode_piece(plain, text_at_ == 0);
    for (size_t i = 0; i < fresh.ids.size(); ++i) append(out_, fresh, i, place);
    token_at_ = token_end;
    shift_ += static_cast<int64_t>(plain.size()) - static_cast<int64_t>(piece.size());
  }

  void copy_tokens(size_t token_end) {
    for (; token_at_ < token_end; ++token_at_) append(out_, tokens_, token_at_, shift_);
  }

  const TemplatedTextEncoder& encoder_;
  std::string_view text_;
  const Encoding& tokens_;
  size_t token_at_ = 0;
  size_t text_at_ = 0;
  int64_t shift_ = 0;  // from places in the protected text to places in the plain one
  Encoding out_;
};

Encoding TemplatedTextEncoder::encode(const ChatTemplate& chat_template, const std::vector<ChatMessage>& messages,
                                      std::string_view rendered) const {
  const auto holds = [this](const ChatMessage& message) { return holds_special(message.content); };
  if (std::none_of(messages.begin(), messages.end(), holds)) {
    return tokenizer_->encode(rendered, false, SpecialTokens::kRecognise);
  }
  std::vector<ChatMessage> guarded = messages;
  for (ChatMessage& message : guarded) message.content = protect(message.content);
  const std::string text = chat_template.render(guarded, false);
  RW_CHECK(unprotect(text) == rendered, DataError,
           "a message holds the text of a special token, and the chat template does not simply copy it, or the message "
           "also holds private-use characters from U+F0000; remove either");
  return Assembler(*this, text, tokenizer_->encode(text, false, SpecialTokens::kRecognise)).run();
}

}  // namespace rankwise
