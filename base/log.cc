#include "base/log.h"

#include <spdlog/logger.h>
#include <spdlog/sinks/stdout_color_sinks.h>

#include <memory>
#include <mutex>
#include <string>
#include <utility>

namespace rankwise {
namespace {

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

}  // namespace

void init_log(int rank, LogLevel level) {
  logger().set_pattern(pattern_for(rank));
  logger().set_level(level_of(level));
}

void log_message(LogLevel level, std::string_view message) {
  logger().log(level_of(level), spdlog::string_view_t(message.data(), message.size()));
  if (!logger().should_log(level_of(level))) return;
  const std::lock_guard lock(listener().mutex);
  if (listener().hear) listener().hear(fmt::format("{}: {}", spdlog::level::to_string_view(level_of(level)), message));
}

void set_log_listener(std::function<void(std::string_view line)> hear) {
  const std::lock_guard lock(listener().mutex);
  listener().hear = std::move(hear);
}

}  // namespace rankwise
