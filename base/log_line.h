// A line of the log as programs read it: one JSON object with time (UTC, milliseconds), level (debug, info, warning,
// error), rank (null before it is known and in programs without ranks), host, event and step where there are such, the
// event's own fields, and last the message that people read.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace rankwise {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

std::string_view log_level_name(LogLevel level);

// What a line holds beside its message. A number that is not finite becomes null.
struct LogFacts {
  using Value = std::variant<int64_t, double, std::string>;
  std::string_view event = {};  // what happened, in a word that stays the same: "checkpoint"
  std::optional<int64_t> step = {};
  std::vector<std::pair<std::string_view, Value>> fields = {};
};

// Without the line's end. Never as long as 4 KiB, which pipes and mpirun pass on whole: a message that is too long
// loses its end, as do bytes that are no UTF-8 their meaning. rank < 0: none.
std::string json_log_line(LogLevel level, int rank, std::string_view message, const LogFacts& facts);

// Some line that a program wrote to stderr.
struct LogLine {
  bool is_json = false;   // as above
  bool is_error = false;  // its level; of other lines, whether they look like an error
  std::string message;    // of other lines all
};
LogLine read_log_line(std::string_view line);

}  // namespace rankwise
