// Data files of one JSON object a line (JSONL) as records: what the person who made the file meant, without tokens.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "trainer/data/error_list.h"
#include "trainer/data/line_reader.h"
#include "trainer/data/settings.h"
#include "trainer/text/chat_template.h"

namespace rankwise {

struct Conversation {
  std::vector<ChatMessage> messages;
};
struct PromptCompletion {
  std::string prompt;
  std::string completion;
};
struct PlainText {
  std::string text;
};
using Record = std::variant<Conversation, PromptCompletion, PlainText>;

bool is_blank(std::string_view text);  // nothing but white space

// One line as a record. Keys beside those of the format are ignored at the top level (id, source, ...), but what would
// change the meaning is refused: tools, history, and keys of a message beside its two.
//   alpaca     instruction and input, with an empty line between them, become the user's message, output the answer.
//   sharegpt   human or user, gpt or assistant, system and tool.
//   messages, sharegpt and alpaca may have a string `system` at the top level, which becomes the first message.
// Throws DataError("PLACE:column: reason") for JSON that is malformed and DataError("PLACE: field: reason") for a
// field; a message never holds text of the line.
Record parse_record(std::string_view line, RecordFormat format, std::string_view place);

// The records of one file in order. Blank lines are skipped and counted. A bad line goes to `errors`, which must
// outlive the reader, and is skipped. Throws what LineReader throws.
class RecordReader {
 public:
  RecordReader(const DataFile& file, ErrorList& errors);
  bool next(Record& record);  // false at the end of the file
  // Adds a mistake found later in the record that next() gave last.
  void report(std::string_view reason);
  std::string finish() { return lines_.finish(); }

  uint64_t bytes_read() const noexcept { return lines_.bytes_read(); }
  int64_t num_blank_lines() const noexcept { return num_blank_lines_; }

 private:
  bool parse(Record& record);
  void add_error(std::string_view message);
  std::string place() const;

  LineReader lines_;
  RecordFormat format_;
  ErrorList* errors_;
  Line line_;
  int64_t num_blank_lines_ = 0;
};

}  // namespace rankwise
