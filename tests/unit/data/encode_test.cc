#include "trainer/data/encode.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "tests/unit/data/test_files.h"
#include "tests/unit/data/tiny_model.h"

namespace rankwise {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::kBos;
using testing::kEndOfText;
using testing::kImEnd;
using testing::make_chat_ml;
using testing::make_tiny_tokenizer;
using testing::message_of;
using testing::ScratchDirectory;

// The text of the tokens in the loss, with "|" where a stretch ends.
std::string learned_text(const Tokenizer& tokenizer, const EncodedSample& sample) {
  std::string text;
  std::vector<int32_t> stretch;
  for (size_t i = 0; i <= sample.ids.size(); ++i) {
    if (i < sample.ids.size() && sample.in_loss[i] != 0) {
      stretch.push_back(sample.ids[i]);
    } else if (!stretch.empty()) {
      text += tokenizer.decode(stretch, false) + "|";
      stretch.clear();
    }
  }
  return text;
}

class EncodeTest : public ::testing::Test {
 protected:
  EncodedSample encode(const Record& record, LossOn loss_on) const {
    return SampleEncoder(tokenizer_, &chat_ml_, loss_on).encode(record);
  }
  std::string learned(const Record& record, LossOn loss_on) const {
    return learned_text(tokenizer_, encode(record, loss_on));
  }

  ScratchDirectory dir_;
  Tokenizer tokenizer_ = make_tiny_tokenizer(dir_.path());
  ChatTemplate chat_ml_ = make_chat_ml(tokenizer_);
  Conversation two_turns_{{{"system", "s"}, {"user", "q"}, {"assistant", "a"}, {"user", "q2"}, {"assistant", "hello"}}};
};

TEST_F(EncodeTest, CompletionIsTheLastAnswerWithWhatClosesIt) {
  EXPECT_EQ(learned(two_turns_, LossOn::kCompletion), "hello<|im_end|>\n|");
}

TEST_F(EncodeTest, AssistantIsEveryAnswerWithWhatClosesIt) {
  EXPECT_EQ(learned(two_turns_, LossOn::kAssistant), "a<|im_end|>\n|hello<|im_end|>\n|");
}

TEST_F(EncodeTest, AllIsTheWholeConversation) {
  const EncodedSample sample = encode(two_turns_, LossOn::kAll);
  EXPECT_EQ(std::count(sample.in_loss.begin(), sample.in_loss.end(), 1), static_cast<long>(sample.ids.size()));
  EXPECT_EQ(num_targets(sample), static_cast<int64_t>(sample.ids.size()) - 1);
}

TEST_F(EncodeTest, TokenisesTheRenderedTextInOneGo) {
  const EncodedSample sample = encode(two_turns_, LossOn::kAll);
  const auto whole = tokenizer_.encode(chat_ml_.render(two_turns_.messages, false), false, SpecialTokens::kRecognise);
  EXPECT_EQ(sample.ids, whole.ids);
}

TEST_F(EncodeTest, ATokenAcrossTheBorderBelongsToTheAnswer) {
  // "assistant\n" + "\n\nhi": the first two line breaks are one token.
  const Conversation conversation{{{"user", "q"}, {"assistant", "\n\nhi"}}};
  EXPECT_EQ(learned(conversation, LossOn::kCompletion), "\n\n\nhi<|im_end|>\n|");
}

TEST_F(EncodeTest, AnAnswerThatQuotesTheEndTokenIsLearnedWhole) {
  const Conversation conversation{{{"user", "q"}, {"assistant", "x<|im_end|>y"}}};
  const EncodedSample sample = encode(conversation, LossOn::kCompletion);
  EXPECT_EQ(learned_text(tokenizer_, sample), "x<|im_end|>y<|im_end|>\n|");
  EXPECT_EQ(std::count(sample.ids.begin(), sample.ids.end(), kImEnd), 2)
      << "the user's and the answer's, not the quoted";
}

TEST_F(EncodeTest, AnEmptyAnswerCarriesNoLoss) {
  for (const char* blank : {"", " \n\t"}) {
    EXPECT_EQ(num_targets(encode(Conversation{{{"user", "q"}, {"assistant", blank}}}, LossOn::kCompletion)), 0);
    EXPECT_EQ(num_targets(encode(PromptCompletion{"q", blank}, LossOn::kCompletion)), 0);
    EXPECT_EQ(num_targets(encode(PlainText{blank}, LossOn::kCompletion)), 0);
  }
  const Conversation first_is_empty{{{"user", "q"}, {"assistant", ""}, {"user", "q"}, {"assistant", "a"}}};
  EXPECT_EQ(learned(first_is_empty, LossOn::kAssistant), "a<|im_end|>\n|");
}

TEST_F(EncodeTest, CompletionNeedsAnAnswerAtTheEnd) {
  const Conversation conversation{{{"user", "q"}, {"assistant", "a"}, {"user", "q2"}}};
  const auto message = message_of<DataError>([&] { encode(conversation, LossOn::kCompletion); });
  EXPECT_THAT(message, HasSubstr("the last message is of the role user"));
  EXPECT_EQ(learned(conversation, LossOn::kAssistant), "a<|im_end|>\n|");
}

TEST_F(EncodeTest, RefusesATemplateThatRendersEarlierAnswersDifferently) {
  const ChatTemplate forgets("{% for m in messages %}[{{ m.content if loop.last else '...' }}]{% endfor %}", "forgets",
                             tokenizer_);
  const SampleEncoder encoder(tokenizer_, &forgets, LossOn::kAssistant);
  const auto message = message_of<DataError>([&] { encoder.encode(two_turns_); });
  EXPECT_THAT(message,
              HasSubstr("messages[2]: the chat template renders the conversation up to this answer differently"));
  EXPECT_THAT(message, HasSubstr("choose data.loss_on"));
}

TEST_F(EncodeTest, AConversationNeedsATemplate) {
  const SampleEncoder encoder(tokenizer_, nullptr, LossOn::kCompletion);
  EXPECT_THAT(message_of<DataError>([&] { encoder.encode(two_turns_); }), HasSubstr("data.chat_template"));
}

TEST_F(EncodeTest, PromptCompletionIsPlainTextClosedByTheEndToken) {
  const EncodedSample sample = encode(PromptCompletion{"q:", " yes"}, LossOn::kCompletion);
  EXPECT_THAT(sample.ids, ElementsAre('q', ':', ' ', 'y', 'e', 's', kEndOfText));
  EXPECT_THAT(sample.in_loss, ElementsAre(0, 0, 1, 1, 1, 1, 1));
  EXPECT_THAT(encode(PromptCompletion{"q:", " yes"}, LossOn::kAll).in_loss, ::testing::Each(1));
}

TEST_F(EncodeTest, SpecialTokensInPlainTextStayText) {
  const EncodedSample sample = encode(PlainText{"<s>"}, LossOn::kAll);
  EXPECT_THAT(sample.ids, ElementsAre('<', 's', '>', kEndOfText));
}

TEST_F(EncodeTest, TheTokenizersOwnRuleAddsTheBeginningToken) {
  ScratchDirectory dir;
  const Tokenizer with_bos = make_tiny_tokenizer(dir.path(), {.adds_bos = true});
  const ChatTemplate chat_ml = make_chat_ml(with_bos);
  const SampleEncoder encoder(with_bos, &chat_ml, LossOn::kCompletion);
  const EncodedSample pair = encoder.encode(PromptCompletion{"q", "y"});
  EXPECT_THAT(pair.ids, ElementsAre(kBos, 'q', 'y', kEndOfText));
  EXPECT_THAT(pair.in_loss, ElementsAre(0, 0, 1, 1));
  EXPECT_THAT(encoder.encode(PlainText{"y"}).ids, ElementsAre(kBos, 'y', kEndOfText));
  EXPECT_NE(encoder.encode(two_turns_).ids.front(), kBos) << "a template brings its own";
}

TEST_F(EncodeTest, PlainTextNeedsAnEndToken) {
  ScratchDirectory dir;
  const Tokenizer without_eos = make_tiny_tokenizer(dir.path(), {.eos_token = ""});
  const SampleEncoder encoder(without_eos, nullptr, LossOn::kAll);
  EXPECT_THAT(message_of<DataError>([&] { encoder.encode(PlainText{"y"}); }), HasSubstr("names no eos_token"));
}

TEST(FitToLength, FollowsThePolicy) {
  const EncodedSample sample{{1, 2, 3, 4, 5}, {0, 0, 0, 1, 1}};
  EncodedSample left = sample, right = sample, dropped = sample, fits = sample, error = sample;
  EXPECT_EQ(fit_to_length(fits, 5, OverLength::kError), Fit::kFits);
  EXPECT_EQ(fit_to_length(left, 3, OverLength::kTruncateLeft), Fit::kTruncated);
  EXPECT_THAT(left.ids, ElementsAre(3, 4, 5));
  EXPECT_THAT(left.in_loss, ElementsAre(0, 1, 1));
  EXPECT_EQ(fit_to_length(right, 3, OverLength::kTruncateRight), Fit::kTruncated);
  EXPECT_THAT(right.ids, ElementsAre(1, 2, 3));
  EXPECT_EQ(num_targets(right), 0);
  EXPECT_EQ(fit_to_length(dropped, 3, OverLength::kDrop), Fit::kDropped);
  const auto message = message_of<DataError>([&] { fit_to_length(error, 3, OverLength::kError); });
  EXPECT_THAT(message, HasSubstr("has 5 tokens, more than data.max_length 3"));
}

TEST(NumTargets, TheFirstTokenIsNeverOne) {
  EXPECT_EQ(num_targets({{1, 2}, {1, 1}}), 1);
  EXPECT_EQ(num_targets({{1}, {1}}), 0);
  EXPECT_EQ(num_targets({}), 0);
}

}  // namespace
}  // namespace rankwise
