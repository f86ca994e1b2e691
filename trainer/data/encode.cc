#include "trainer/data/encode.h"

#include <algorithm>

#include "base/check.h"

namespace rankwise {
namespace {

int32_t eos_id_of(const Tokenizer& tokenizer) {
  return tokenizer.eos_token().empty() ? -1 : tokenizer.id_of(tokenizer.eos_token()).value_or(-1);
}

}  // namespace

int64_t num_targets(const EncodedSample& sample) {
  if (sample.in_loss.empty()) return 0;
  return std::count(sample.in_loss.begin() + 1, sample.in_loss.end(), uint8_t{1});
}

Fit fit_to_length(EncodedSample& sample, int64_t max_length, OverLength policy) {
  const auto length = static_cast<int64_t>(sample.ids.size());
  if (length <= max_length) return Fit::kFits;
  if (policy == OverLength::kDrop) return Fit::kDropped;
  RW_CHECK(policy != OverLength::kError, DataError,
           "the sample has {} tokens, more than data.max_length {}; raise it, shorten the sample, or choose "
           "data.over_length truncate_left, truncate_right or drop",
           length, max_length);
  const int64_t begin = policy == OverLength::kTruncateLeft ? length - max_length : 0;
  const auto keep = [&](auto& values) {
    values.erase(values.begin(), values.begin() + begin);
    values.resize(static_cast<size_t>(max_length));
  };
  keep(sample.ids);
  keep(sample.in_loss);
  return Fit::kTruncated;
}

SampleEncoder::SampleEncoder(const Tokenizer& tokenizer, const ChatTemplate* chat_template, LossOn loss_on)
    : tokenizer_(&tokenizer),
      template_(chat_template),
      loss_on_(loss_on),
      eos_id_(eos_id_of(tokenizer)),
      templated_(tokenizer) {}

EncodedSample SampleEncoder::encode(const Record& record) const {
  return std::visit([this](const auto& each) { return encode_kind(each); }, record);
}

EncodedSample SampleEncoder::encode_kind(const Conversation& conversation) const {
  RW_CHECK(template_ != nullptr, DataError,
           "a conversation needs a chat template and this model has none; name one as data.chat_template, or use the "
           "format prompt_completion or text");
  const std::string rendered = template_->render(conversation.messages, false);
  const std::vector<ByteRange> ranges = loss_ranges(conversation.messages, rendered);
  Encoding tokens = templated_.encode(*template_, conversation.messages, rendered);
  EncodedSample sample{std::move(tokens.ids), {}};
  sample.in_loss.resize(sample.ids.size());
  for (size_t i = 0; i < sample.ids.size(); ++i) {
    sample.in_loss[i] = std::any_of(ranges.begin(), ranges.end(), [&](const ByteRange& range) {
      return tokens.begins[i] < range.end && tokens.ends[i] > range.begin;
    });
  }
  return sample;
}

std::vector<SampleEncoder::ByteRange> SampleEncoder::loss_ranges(const std::vector<ChatMessage>& messages,
                                                                 std::string_view rendered) const {
  if (loss_on_ == LossOn::kAll) return {{0, rendered.size()}};
  const size_t last = messages.size() - 1;
  RW_CHECK(loss_on_ == LossOn::kAssistant || messages[last].role == "assistant", DataError,
           "the last message is of the role {}, and loss_on completion learns the last answer; remove what follows it, "
           "or choose data.loss_on assistant",
           messages[last].role);
  std::vector<ByteRange> ranges;
  for (size_t i = loss_on_ == LossOn::kCompletion ? last : 0; i < messages.size(); ++i) {
    if (messages[i].role == "assistant" && !is_blank(messages[i].content)) {
      ranges.push_back(answer_range(messages, i, rendered));
    }
  }
  return ranges;
}

SampleEncoder::ByteRange SampleEncoder::answer_range(const std::vector<ChatMessage>& messages, size_t answer,
                                                     std::string_view rendered) const {
  const auto first = messages.begin();
  const auto end = first + static_cast<std::ptrdiff_t>(answer);
  const std::string prompt = template_->render({first, end}, true);
  const bool is_last = answer + 1 == messages.size();
  const std::string through = is_last ? std::string(rendered) : template_->render({first, end + 1}, false);
  RW_CHECK(
      through.starts_with(prompt) && rendered.starts_with(through), DataError,
      "messages[{}]: the chat template renders the conversation up to this answer differently from the beginning of "
      "the whole, so that the answer has no place in it; choose data.loss_on {}, or another template",
      answer, is_last ? "all" : "completion or all");
  return {prompt.size(), through.size()};
}

EncodedSample SampleEncoder::encode_kind(const PromptCompletion& pair) const {
  return encode_plain(pair.prompt, pair.completion, loss_on_ == LossOn::kAll);
}

EncodedSample SampleEncoder::encode_kind(const PlainText& plain) const { return encode_plain("", plain.text, true); }

EncodedSample SampleEncoder::encode_plain(std::string_view prompt, std::string_view completion,
                                          bool all_in_loss) const {
  RW_CHECK(eos_id_ >= 0, DataError,
           "the tokenizer names no eos_token, which closes every text; add it to tokenizer_config.json");
  Encoding tokens = tokenizer_->encode(std::string(prompt) + std::string(completion), true, SpecialTokens::kAsText);
  EncodedSample sample{std::move(tokens.ids), {}};
  const bool has_answer = !is_blank(completion);
  for (const uint32_t end : tokens.ends) sample.in_loss.push_back(has_answer && (all_in_loss || end > prompt.size()));
  if (sample.ids.empty() || sample.ids.back() != eos_id_) {
    sample.ids.push_back(eos_id_);
    sample.in_loss.push_back(0);
  }
  sample.in_loss.back() = has_answer;  // also for an EOS that the tokenizer added itself, which covers no text
  return sample;
}

}  // namespace rankwise
