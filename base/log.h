// Messages for people, on stderr, so that stdout stays free for results. Rank 0 speaks; the others only when they alone
// have something to say, with their rank in front.
#pragma once

#include <fmt/format.h>

#include <functional>
#include <string_view>

namespace rankwise {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

// rank < 0: a program without ranks. Call once from main before any thread starts.
void init_log(int rank, LogLevel level);
void log_message(LogLevel level, std::string_view message);

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
