// A record as token ids, with the tokens that carry loss chosen by their place in the text, never by their id: padding,
// or an answer that quotes the end token, cannot confuse it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "trainer/data/protected_text.h"
#include "trainer/data/records.h"
#include "trainer/data/settings.h"
#include "trainer/text/chat_template.h"
#include "trainer/text/tokenizer.h"

namespace rankwise {

struct EncodedSample {
  std::vector<int32_t> ids;
  std::vector<uint8_t> in_loss;  // [ids.size()] 1: this token is to be learned
};

// Tokens in the loss that have a token before them: what the loss of this sample sums over.
int64_t num_targets(const EncodedSample& sample);

// How a sample met max_length. kDropped leaves it as it is.
enum class Fit { kFits, kTruncated, kDropped };
// Throws DataError with both lengths when the policy is kError.
Fit fit_to_length(EncodedSample& sample, int64_t max_length, OverLength policy);

// Encodes records of one data set. Thread-safe; tokenizer and template must outlive it.
class SampleEncoder {
 public:
  // chat_template may be null: then conversations are refused.
  SampleEncoder(const Tokenizer& tokenizer, const ChatTemplate* chat_template, LossOn loss_on);

  // Conversations are rendered by the chat template and tokenised without further special tokens.
  //   completion: all behind the prompt, which is the conversation without its last message, rendered with the
  //               generation prompt. So the tokens that close the answer are in the loss.
  //   assistant:  the same for every assistant message, each taken as the last of the conversation up to it.
  // prompt_completion and text are plain text even if the model has a template: prompt and completion are joined as
  // they stand and tokenised in one go, with the special tokens that the tokenizer itself adds (BOS or none), and the
  // EOS token behind. A token across the border belongs to the completion. An answer of nothing but white space carries
  // no loss: it would teach the model to stop at once. Throws DataError with a reason, without the place and without
  // text of the record.
  EncodedSample encode(const Record& record) const;

 private:
  struct ByteRange {
    size_t begin, end;
  };
  EncodedSample encode_kind(const Conversation& conversation) const;
  EncodedSample encode_kind(const PromptCompletion& pair) const;
  EncodedSample encode_kind(const PlainText& plain) const;
  EncodedSample encode_plain(std::string_view prompt, std::string_view completion, bool all_in_loss) const;
  std::vector<ByteRange> loss_ranges(const std::vector<ChatMessage>& messages, std::string_view rendered) const;
  ByteRange answer_range(const std::vector<ChatMessage>& messages, size_t answer, std::string_view rendered) const;

  const Tokenizer* tokenizer_;
  const ChatTemplate* template_;
  LossOn loss_on_;
  int32_t eos_id_;  // -1: the tokenizer has none
  TemplatedTextEncoder templated_;
};

}  // namespace rankwise
