#include "trainer/data/records.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ostream>

#include "base/error.h"
#include "tests/unit/data/test_files.h"

namespace rankwise {
namespace {

using ::testing::HasSubstr;
using testing::message_of;
using ::testing::Not;
using testing::ScratchDirectory;
using namespace std::string_literals;

// The word that stands for the user's text: no message may hold it.
constexpr const char* kSecret = "zebra";

struct BadLine {
  const char* name;
  std::string line;
  const char* reason;
  RecordFormat format = RecordFormat::kMessages;
};
void PrintTo(const BadLine& bad, std::ostream* out) { *out << bad.name; }

std::string messages(const std::string& turns) { return R"({"messages": [)" + turns + "]}"; }
const std::string kAnswer = R"({"role": "assistant", "content": "zebra"})";

std::string deep(size_t depth) { return R"({"messages": )" + std::string(depth, '[') + std::string(depth, ']') + "}"; }

// What the reader of JSON refuses.
const std::vector<BadLine> kBadJson = {
    {"BadUtf8", "{\"text\": \"zebra \xff\"}", "UTF-8"},
    {"TruncatedUtf8", "{\"text\": \"zebra \xe2\x82\"}", "UTF-8"},
    {"OverlongUtf8", "{\"text\": \"zebra \xc0\xaf\"}", "UTF-8"},
    {"SurrogateInUtf8", "{\"text\": \"zebra \xed\xa0\x80\"}", "UTF-8"},
    {"LoneSurrogateEscape", R"({"text": "zebra \ud800"})", ":17:"},
    {"ReversedSurrogates", R"({"text": "zebra \udc00\ud800"})", ":17:"},
    {"RawNul", "{\"text\": \"zebra \0\"}"s, ":17:"},
    {"RawControlCharacter", "{\"text\": \"zebra \x01\"}", ":17:"},
    {"ByteOrderMarkInside", "\xef\xbb\xbf{\"text\": \"zebra\"}", ":17:"},
    {"TruncatedObject", R"({"text": "zebra)", ":17:"},
    {"NoClosingBrace", R"({"text": "zebra")", ":17:"},
    {"TwoObjectsOnALine", R"({"text": "zebra"} {"text": "zebra"})", ":17:"},
    {"TextBehind", R"({"text": "zebra"} zebra)", ":17:"},
    {"DuplicateKey", R"({"text": "zebra", "text": "zebra"})", "duplicate key"},
    {"DuplicateKeyInside", messages(R"({"role": "user", "role": "user", "content": "zebra"})"), "duplicate key"},
    {"SingleQuotes", R"({'text': 'zebra'})", ":17:"},
    {"TrailingComma", R"({"text": "zebra",})", ":17:"},
    {"NotANumber", R"({"text": NaN})", ":17:"},
    {"NumberTooLarge", R"({"text": 1e999})", ":17:"},
    {"DeepNesting", deep(1'000'000), ":17:"},
    {"Comment", R"({"text": "zebra"} // zebra)", ":17:"},
};

// What is JSON but no record.
const std::vector<BadLine> kBadRecords = {
    {"Array", R"(["zebra"])", "expected a JSON object, found array"},
    {"Number", "17", "expected a JSON object, found number"},
    {"Null", "null", "expected a JSON object, found null"},
    {"MissingMessages", R"({"zebra": 1})", "messages: missing"},
    {"MessagesNull", R"({"messages": null})", "messages: expected an array, found null"},
    {"MessagesString", R"({"messages": "zebra"})", "messages: expected an array, found string"},
    {"NoMessages", R"({"messages": []})", "messages: the array is empty"},
    {"MessageIsAString", messages(R"("zebra")"), "messages[0]: expected an object, found string"},
    {"MissingRole", messages(R"({"content": "zebra"})"), "messages[0].role: missing"},
    {"UnknownRole", messages(R"({"role": "zebra", "content": "x"})"), "messages[0].role: an unknown role"},
    {"MissingContent", messages(R"({"role": "user"})"), "messages[0].content: missing"},
    {"ContentNull", messages(R"({"role": "user", "content": null})"),
     "messages[0].content: expected a string, found null"},
    {"ContentParts", messages(R"({"role": "user", "content": [{"type": "text", "text": "zebra"}]})"),
     "messages[0].content: expected a string, found array"},
    {"ContentNumber", messages(R"({"role": "user", "content": "q"}, {"role": "assistant", "content": 3})"),
     "messages[1].content: expected a string, found number"},
    {"EscapedNul", messages(R"({"role": "user", "content": "zebra \u0000"})"), "messages[0].content: holds a NUL"},
    {"EmptyUserMessage", messages(R"({"role": "user", "content": ""}, )" + kAnswer), "user's message is empty"},
    {"ToolCalls", messages(R"({"role": "assistant", "content": "", "tool_calls": ["zebra"]})"), "would be lost"},
    {"Tools", R"({"tools": ["zebra"], "messages": [)" + kAnswer + "]}", "tools: not supported"},
    {"EmptyPrompt", R"({"prompt": "", "completion": "zebra"})", "prompt: empty", RecordFormat::kPromptCompletion},
    {"MissingCompletion", R"({"prompt": "zebra"})", "completion: missing", RecordFormat::kPromptCompletion},
    {"PromptIsAConversation", R"({"prompt": [{"role": "user", "content": "zebra"}], "completion": "zebra"})",
     "prompt: expected a string, found array", RecordFormat::kPromptCompletion},
    {"EmptyInstruction", R"({"instruction": "", "input": "", "output": "zebra"})", "instruction: empty",
     RecordFormat::kAlpaca},
    {"MissingOutput", R"({"instruction": "zebra"})", "output: missing", RecordFormat::kAlpaca},
    {"History", R"({"instruction": "zebra", "output": "zebra", "history": [["zebra", "zebra"]]})",
     "history: not supported", RecordFormat::kAlpaca},
    {"UnknownSender", R"({"conversations": [{"from": "zebra", "value": "x"}]})",
     "conversations[0].from: an unknown role", RecordFormat::kShareGpt},
    {"TextNull", R"({"text": null})", "text: expected a string, found null", RecordFormat::kText},
};

class BadLineIsRefused : public ::testing::TestWithParam<BadLine> {};

TEST_P(BadLineIsRefused, WithItsPlaceAndReasonButWithoutItsText) {
  const BadLine& bad = GetParam();
  const auto message = message_of<DataError>([&] { parse_record(bad.line, bad.format, "train.jsonl:17"); });
  EXPECT_THAT(message, ::testing::StartsWith("train.jsonl:17:"));
  EXPECT_THAT(message, HasSubstr(bad.reason));
  EXPECT_THAT(message, Not(HasSubstr(kSecret)));
}

const auto kNameOf = [](const auto& each) { return std::string(each.param.name); };
INSTANTIATE_TEST_SUITE_P(Json, BadLineIsRefused, ::testing::ValuesIn(kBadJson), kNameOf);
INSTANTIATE_TEST_SUITE_P(Record, BadLineIsRefused, ::testing::ValuesIn(kBadRecords), kNameOf);

TEST(ParseRecord, GivesTheColumnOfAMistakeInTheJson) {
  const auto message =
      message_of<DataError>([] { parse_record(R"({"text": nil})", RecordFormat::kText, "data/train.jsonl:17"); });
  EXPECT_THAT(message, ::testing::MatchesRegex("data/train.jsonl:17:1[0-2]: .*"));
}

Conversation conversation(std::string_view line, RecordFormat format) {
  return std::get<Conversation>(parse_record(line, format, "here:1"));
}

void expect_turns(const Conversation& conversation, const std::vector<std::pair<std::string, std::string>>& turns) {
  std::vector<std::pair<std::string, std::string>> found;
  for (const ChatMessage& message : conversation.messages) found.emplace_back(message.role, message.content);
  EXPECT_EQ(found, turns);
}

TEST(ParseRecord, ReadsMessagesAndIgnoresOtherKeysOfTheRecord) {
  const auto line = R"({"id": 7, "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"},
      {"role": "assistant", "content": "a\nb", "name": null}], "tools": null})";
  expect_turns(conversation(line, RecordFormat::kMessages), {{"system", "s"}, {"user", "q"}, {"assistant", "a\nb"}});
}

TEST(ParseRecord, ReadsShareGptWithItsOwnWordsForRoles) {
  const auto line = R"({"system": "s", "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"},
      {"from": "user", "value": "q2"}, {"from": "assistant", "value": "a2"}]})";
  expect_turns(conversation(line, RecordFormat::kShareGpt),
               {{"system", "s"}, {"user", "q"}, {"assistant", "a"}, {"user", "q2"}, {"assistant", "a2"}});
}

TEST(ParseRecord, ReadsAlpacaWithAndWithoutInput) {
  expect_turns(conversation(R"({"instruction": "i", "input": "x", "output": "o"})", RecordFormat::kAlpaca),
               {{"user", "i\n\nx"}, {"assistant", "o"}});
  expect_turns(conversation(R"({"instruction": "i", "input": "", "output": "o"})", RecordFormat::kAlpaca),
               {{"user", "i"}, {"assistant", "o"}});
  expect_turns(conversation(R"({"system": "s", "instruction": "i", "output": "o"})", RecordFormat::kAlpaca),
               {{"system", "s"}, {"user", "i"}, {"assistant", "o"}});
}

TEST(ParseRecord, ReadsPromptCompletionAndText) {
  const Record pair = parse_record(R"({"prompt": "p", "completion": ""})", RecordFormat::kPromptCompletion, "here:1");
  EXPECT_EQ(std::get<PromptCompletion>(pair).prompt, "p");
  EXPECT_EQ(std::get<PromptCompletion>(pair).completion, "");
  const Record text = parse_record(R"({"text": "\u00e9\ud83d\ude00"})", RecordFormat::kText, "here:1");
  EXPECT_EQ(std::get<PlainText>(text).text, "é😀");
}

struct ReadResult {
  std::vector<std::string> texts;
  int64_t num_blank_lines = 0;
  ErrorList errors;
};

ReadResult read_texts(const std::filesystem::path& path) {
  ReadResult result;
  RecordReader reader({path, RecordFormat::kText}, result.errors);
  Record record;
  while (reader.next(record)) result.texts.push_back(std::get<PlainText>(record).text);
  result.num_blank_lines = reader.num_blank_lines();
  return result;
}

TEST(RecordReader, TakesWindowsLineEndsBlankLinesAndAMissingFinalNewline) {
  ScratchDirectory dir;
  const auto result =
      read_texts(dir.add("a.jsonl", "{\"text\": \"1\"}\r\n\r\n  \n{\"text\": \"2\"}\n\n{\"text\": \"3\"}"));
  EXPECT_THAT(result.texts, ::testing::ElementsAre("1", "2", "3"));
  EXPECT_EQ(result.num_blank_lines, 3);
  EXPECT_EQ(result.errors.count(), 0);
}

TEST(RecordReader, GoesOnBehindABadLineAndNamesEach) {
  ScratchDirectory dir;
  const auto path = dir.add("a.jsonl", "{\"text\": \"1\"}\n\n{\"text\": zebra}\n{\"text\": \"4\"}\n{\"zebra\": 5}\n");
  const auto result = read_texts(path);
  EXPECT_THAT(result.texts, ::testing::ElementsAre("1", "4"));
  const auto message = message_of<DataError>([&] { result.errors.throw_if_any(); });
  EXPECT_THAT(message, HasSubstr(path.string() + ":3:10: "));
  EXPECT_THAT(message, HasSubstr("\n" + path.string() + ":5: text: missing"));
  EXPECT_THAT(message, HasSubstr("(line of 12 bytes, hash "));
  EXPECT_THAT(message, Not(HasSubstr(kSecret)));
}

TEST(RecordReader, ShowsTwentyErrorsAndTheirNumber) {
  ScratchDirectory dir;
  std::string text;
  for (int i = 0; i < 33; ++i) text += "zebra\n";
  const auto result = read_texts(dir.add("a.jsonl", text));
  EXPECT_EQ(result.errors.count(), 33);
  const auto message = message_of<DataError>([&] { result.errors.throw_if_any(); });
  EXPECT_EQ(std::count(message.begin(), message.end(), '\n'), 20);
  EXPECT_THAT(message, ::testing::EndsWith("\n... and 13 more of 33 bad records"));
}

TEST(RecordReader, HintsAtATruncatedFile) {
  ScratchDirectory dir;
  const auto result = read_texts(dir.add("a.jsonl", "{\"text\": \"1\"}\n{\"text\": \"zeb"));
  EXPECT_THAT(message_of<DataError>([&] { result.errors.throw_if_any(); }),
              HasSubstr("the file ends without a newline"));
}

TEST(RecordReader, RefusesALineOverTheLimit) {
  ScratchDirectory dir;
  const auto path = dir.add("a.jsonl", "{\"text\": \"" + std::string(17u << 20, 'x') + "\"}\n{\"text\": \"2\"}\n");
  const auto result = read_texts(path);
  EXPECT_THAT(result.texts, ::testing::ElementsAre("2"));
  EXPECT_THAT(message_of<DataError>([&] { result.errors.throw_if_any(); }),
              HasSubstr(path.string() + ":1:1: the line is longer than 16777216 bytes"));
}

}  // namespace
}  // namespace rankwise
