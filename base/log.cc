#include "base/log.h"

#include <spdlog/logger.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "base/check.h"
#include "base/console.h"

namespace rankwise {
namespace {

std::atomic<LogFormat> format{LogFormat::kText};
std::atomic<int> own_rank{-1};

spdlog::level::level_enum level_of(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return spdlog::level::debug;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarning:
      return spdlog::level::warn;
    case LogLevel::kError:
      return spdlog::level::err;
  }
  return spdlog::level::err;
}

// "14:02:11 warning message"; the colour is there only on a terminal.
std::string pattern_for(int rank) {
  return rank > 0 ? fmt::format("%T %^%l%$ rank {}: %v", rank) : std::string("%T %^%l%$ %v");
}

// Never destroyed: the watchdog may log while the process ends.
spdlog::logger& logger() {
  static auto* const instance = [] {
    auto* made = new spdlog::logger("rankwise", std::make_shared<spdlog::sinks::stderr_color_sink_mt>());
    made->set_pattern(pattern_for(-1));
    made->flush_on(spdlog::level::debug);
    return made;
  }();
  return *instance;
}

struct Listener {
  std::mutex mutex;
  std::function<void(std::string_view)> hear;
};

Listener& listener() {  // never destroyed, as above
  static auto* const instance = new Listener;
  return *instance;
}

void write_line(std::string line) {
  line += '\n';
  write_to_watcher(STDERR_FILENO, line);
}

}  // namespace

void init_log(int rank, LogLevel level) {
  own_rank = rank;
  logger().set_pattern(pattern_for(rank));
  logger().set_level(level_of(level));
}

void set_log_format(LogFormat wanted) { format = wanted; }

LogFormat log_format() { return format; }

LogFormat log_format_named(std::string_view name, std::string_view place) {
  RW_CHECK(name == "text" || name == "json", UsageError, "{} is \"{}\"; text or json", place, name);
  return name == "json" ? LogFormat::kJson : LogFormat::kText;
}

void log_message(LogLevel level, std::string_view message, const LogFacts& facts) {
  if (!logger().should_log(level_of(level))) return;
  if (format == LogFormat::kJson)
    write_line(json_log_line(level, own_rank, message, facts));
  else
    logger().log(level_of(level), spdlog::string_view_t(message.data(), message.size()));
  const std::lock_guard lock(listener().mutex);
  if (listener().hear) listener().hear(fmt::format("{}: {}", log_level_name(level), message));
}

void log_event(std::string_view message, const LogFacts& facts) {
  if (format == LogFormat::kJson) write_line(json_log_line(LogLevel::kInfo, own_rank, message, facts));
}

void log_last_words(std::string_view message, const LogFacts& facts) {
  const bool json = format == LogFormat::kJson;
  write_line(json ? json_log_line(LogLevel::kError, own_rank, message, facts) : fmt::format("rankwise: {}", message));
}

void set_log_listener(std::function<void(std::string_view line)> hear) {
  const std::lock_guard lock(listener().mutex);
  listener().hear = std::move(hear);
}

}  // namespace rankwise
