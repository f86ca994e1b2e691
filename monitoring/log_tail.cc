#include "monitoring/log_tail.h"

#include <chrono>

namespace rankwise {

void LogTail::add(std::string_view text) {
  const double now = unix_time();
  const std::lock_guard lock(mutex_);
  while (!text.empty()) {
    const size_t end = text.find('\n');
    add_line(text.substr(0, end), now);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  }
}

void LogTail::add_line(std::string_view line, double time) {
  std::string kept(line.substr(0, kMaxLineBytes));
  if (line.size() > kMaxLineBytes) kept += " ...";
  if (lines_.size() == kMaxLines) lines_.pop_front();
  lines_.push_back({time, std::move(kept)});
}

std::vector<LogTail::Line> LogTail::lines() const {
  const std::lock_guard lock(mutex_);
  return {lines_.begin(), lines_.end()};
}

double unix_time() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

}  // namespace rankwise
