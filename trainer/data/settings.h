// What the data room needs to know, and what it reports back.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string_view>
#include <vector>

namespace rankwise {

enum class RecordFormat {
  kMessages,          // {"messages": [{"role": "user", "content": "..."}, ...]}
  kPromptCompletion,  // {"prompt": "...", "completion": "..."}: plain text, the chat template is not used
  kAlpaca,            // {"instruction": "...", "input": "...", "output": "..."}: one question, one answer
  kShareGpt,          // {"conversations": [{"from": "human", "value": "..."}, ...]}
  kText,              // {"text": "..."}
};

// Which tokens carry loss. In the format `text` all do.
enum class LossOn {
  kCompletion,  // the last answer, with all that closes it
  kAssistant,   // every answer of the conversation
  kAll,
};

// What happens to a sample of more than max_length tokens.
enum class OverLength {
  kError,
  kTruncateLeft,   // the last max_length tokens stay; a leading BOS is lost
  kTruncateRight,  // the first max_length tokens stay
  kDrop,
};

// Which records of the files are taken, when eval_fraction splits them.
enum class DataPart { kAll, kTrain, kEval };

// The words of the configuration file. Throws ConfigError with the list of valid words.
RecordFormat record_format_from(std::string_view word);
LossOn loss_on_from(std::string_view word);
OverLength over_length_from(std::string_view word);
std::string_view word_of(RecordFormat format);
std::string_view word_of(LossOn loss_on);
std::string_view word_of(OverLength over_length);
std::string_view word_of(DataPart part);

struct DataFile {
  std::filesystem::path path;
  RecordFormat format = RecordFormat::kMessages;
};

struct DataSettings {
  std::vector<DataFile> files;
  std::filesystem::path cache_dir;  // made if absent; may be shared by runs and hosts
  int64_t max_length = 512;         // tokens in a row
  bool packing = true;              // several samples a row
  LossOn loss_on = LossOn::kCompletion;
  OverLength over_length = OverLength::kError;
  DataPart part = DataPart::kAll;
  double eval_fraction = 0.0;  // of the records, chosen by (split_seed, record index)
  uint64_t split_seed = 42;
};

// Counts of one prepared data set. Stored in the cache as it is: plain 64-bit integers only.
struct DataReport {
  int64_t num_records = 0;            // lines of the files that are not blank
  int64_t num_blank_lines = 0;        // skipped
  int64_t num_in_other_part = 0;      // left to the other side of the split
  int64_t num_dropped_too_long = 0;   // over_length: drop
  int64_t num_dropped_no_target = 0;  // empty answers, and answers that truncation cut off
  int64_t num_truncated = 0;
  int64_t num_samples = 0;
  int64_t num_tokens = 0;
  int64_t num_target_tokens = 0;  // tokens that carry loss and have a token before them to be predicted from
  int64_t num_rows = 0;
  int64_t row_capacity = 0;  // max_length

  double fill_ratio() const {
    return num_rows == 0 ? 0.0 : static_cast<double>(num_tokens) / static_cast<double>(num_rows * row_capacity);
  }
};

}  // namespace rankwise
