#include "trainer/data/records.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/check.h"
#include "base/hash.h"
#include "base/json.h"
#include "trainer/data/record_fields.h"

namespace rankwise {
namespace {

using nlohmann::json;

struct Role {
  std::string_view word;  // in the file
  std::string_view name;  // in a chat template
};

// How a format spells a conversation.
struct TurnWords {
  const char* list;
  const char* role;
  const char* content;
  std::vector<Role> roles;
};

const TurnWords& messages_words() {
  static const TurnWords words{"messages",
                               "role",
                               "content",
                               {{"system", "system"}, {"user", "user"}, {"assistant", "assistant"}, {"tool", "tool"}}};
  return words;
}

const TurnWords& sharegpt_words() {
  static const TurnWords words{"conversations",
                               "from",
                               "value",
                               {{"system", "system"},
                                {"human", "user"},
                                {"user", "user"},
                                {"gpt", "assistant"},
                                {"assistant", "assistant"},
                                {"tool", "tool"}}};
  return words;
}

std::string role_name(const std::string& word, const TurnWords& words, std::string_view where) {
  const auto role = std::find_if(words.roles.begin(), words.roles.end(), [&](const Role& r) { return r.word == word; });
  if (role == words.roles.end()) {
    std::string known;
    for (const Role& each : words.roles) known += (known.empty() ? "" : ", ") + std::string(each.word);
    throw DataError(fmt::format("{}{}: an unknown role; known are {}", where, words.role, known));
  }
  return std::string(role->name);
}

ChatMessage parse_turn(const json& turn, const TurnWords& words, size_t index) {
  const std::string where = fmt::format("{}[{}].", words.list, index);
  RW_CHECK(turn.is_object(), DataError, "{}[{}]: expected an object, found {}", words.list, index, turn.type_name());
  for (const auto& [key, value] : turn.items()) {
    RW_CHECK(key == words.role || key == words.content || value.is_null(), DataError,
             "{}[{}]: has a key beside {} and {}, which would be lost; remove it", words.list, index, words.role,
             words.content);
  }
  ChatMessage message{role_name(required_string(turn, words.role, where), words, where),
                      required_string(turn, words.content, where)};
  RW_CHECK(message.role != "user" || !message.content.empty(), DataError, "{}{}: the user's message is empty", where,
           words.content);
  return message;
}

void add_system(const json& record, Conversation& conversation) {
  std::string system = optional_string(record, "system");
  if (!system.empty()) conversation.messages.push_back({"system", std::move(system)});
}

Conversation parse_turns(const json& record, const TurnWords& words) {
  refuse_field(record, "tools");
  refuse_field(record, "functions");
  Conversation conversation;
  add_system(record, conversation);
  const json& turns = required_list(record, words.list);
  for (size_t i = 0; i < turns.size(); ++i) conversation.messages.push_back(parse_turn(turns[i], words, i));
  return conversation;
}

Conversation parse_alpaca(const json& record) {
  refuse_field(record, "history");
  Conversation conversation;
  add_system(record, conversation);
  std::string question = required_string(record, "instruction");
  const std::string input = optional_string(record, "input");
  if (!input.empty()) question += "\n\n" + input;
  RW_CHECK(!question.empty(), DataError, "instruction: empty, and input too");
  conversation.messages.push_back({"user", std::move(question)});
  conversation.messages.push_back({"assistant", required_string(record, "output")});
  return conversation;
}

PromptCompletion parse_prompt_completion(const json& record) {
  PromptCompletion pair{required_string(record, "prompt"), required_string(record, "completion")};
  RW_CHECK(!pair.prompt.empty(), DataError, "prompt: empty; use the format text for records without a prompt");
  return pair;
}

Record parse_fields(const json& record, RecordFormat format) {
  switch (format) {
    case RecordFormat::kMessages:
      return parse_turns(record, messages_words());
    case RecordFormat::kPromptCompletion:
      return parse_prompt_completion(record);
    case RecordFormat::kAlpaca:
      return parse_alpaca(record);
    case RecordFormat::kShareGpt:
      return parse_turns(record, sharegpt_words());
    case RecordFormat::kText:
      return PlainText{required_string(record, "text")};
  }
  throw Error("a record format without a parser");
}

// The JSON reader counts lines inside the text it is given; a record is one line of a file.
json parse_line(std::string_view line, std::string_view place) {
  constexpr std::string_view kFirstLine = ":1";
  const JsonLimits limits{.max_bytes = LineReader::kMaxLineBytes, .max_depth = 64, .max_values = 1u << 20};
  try {
    return parse_json(line, "", limits);
  } catch (const DataError& error) {
    std::string_view reason = error.what();
    if (reason.starts_with(kFirstLine)) reason.remove_prefix(kFirstLine.size());
    throw DataError(std::string(place) + std::string(reason));
  }
}

}  // namespace

bool is_blank(std::string_view text) { return text.find_first_not_of(" \t\r\n") == std::string_view::npos; }

Record parse_record(std::string_view line, RecordFormat format, std::string_view place) {
  const json record = parse_line(line, place);
  try {
    RW_CHECK(record.is_object(), DataError, "expected a JSON object, found {}", record.type_name());
    return parse_fields(record, format);
  } catch (const DataError& error) {
    throw DataError(fmt::format("{}: {}", place, error.what()));
  }
}

RecordReader::RecordReader(const DataFile& file, ErrorList& errors)
    : lines_(file.path), format_(file.format), errors_(&errors) {}

std::string RecordReader::place() const { return fmt::format("{}:{}", lines_.path().string(), line_.number); }

void RecordReader::add_error(std::string_view message) {
  constexpr std::string_view kUnfinished = "; the file ends without a newline, is it complete?";
  errors_->add(fmt::format("{} (line of {} bytes, hash {:016x}{})", message, line_.text.size(), hash64(line_.text),
                           line_.has_newline ? "" : kUnfinished));
}

void RecordReader::report(std::string_view reason) { add_error(fmt::format("{}: {}", place(), reason)); }

bool RecordReader::parse(Record& record) {
  try {
    record = parse_record(line_.text, format_, place());
    return true;
  } catch (const DataError& error) {
    add_error(error.what());
    return false;
  }
}

bool RecordReader::next(Record& record) {
  while (lines_.next(line_)) {
    if (line_.too_long) {
      errors_->add(fmt::format("{}:1: the line is longer than {} bytes; is there one record a line?", place(),
                               LineReader::kMaxLineBytes));
    } else if (is_blank(line_.text)) {
      ++num_blank_lines_;
    } else if (parse(record)) {
      return true;
    }
  }
  return false;
}

}  // namespace rankwise
