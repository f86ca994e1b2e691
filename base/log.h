// Messages for people, on stderr, so that stdout stays free for results. Rank 0 speaks; the others only when they alone
// have something to say, with their rank in front. LogFormat::kJson: the same for programs, a JSON object a line, each
// written at once, so that lines of several processes do not mix.
#pragma once

#include <fmt/format.h>

#include <functional>
#include <string_view>

#include "base/log_line.h"

namespace rankwise {

enum class LogFormat { kText, kJson };

// rank < 0: a program without ranks. Call this and set_log_format from main before any thread starts.
void init_log(int rank, LogLevel level);
void set_log_format(LogFormat format);
LogFormat log_format();  // kText where none was set
// "text" or "json"; throws UsageError for another one. `place`: where it was given.
LogFormat log_format_named(std::string_view name, std::string_view place);

void log_message(LogLevel level, std::string_view message, const LogFacts& facts = {});
// For programs alone, where people are told in other words: nothing in LogFormat::kText.
void log_event(std::string_view message, const LogFacts& facts);
// An error that ends the process: to people "rankwise: message". Takes no lock, so that it is heard whatever the other
// threads are stuck in.
void log_last_words(std::string_view message, const LogFacts& facts = {});

// Every message that is shown goes to `listener` too, as "warning: ...", one at a time, from the thread that logs. It
// must not log itself. Empty: to nobody any more; when this returns, nobody is inside the one from before.
void set_log_listener(std::function<void(std::string_view line)> listener);

template <typename... Args>
void log_info(fmt::format_string<Args...> format, Args&&... args) {
  log_message(LogLevel::kInfo, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void log_warning(fmt::format_string<Args...> format, Args&&... args) {
  log_message(LogLevel::kWarning, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void log_error(fmt::format_string<Args...> format, Args&&... args) {
  log_message(LogLevel::kError, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace rankwise
