#include "monitoring/progress.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <exception>
#include <utility>
#include <vector>

#include "base/console.h"
#include "base/log.h"

namespace rankwise {
namespace {

constexpr size_t kMaxBarColumns = 30;
constexpr size_t kMinBarColumns = 8;
constexpr std::string_view kGap = "  ";
constexpr std::string_view kClearLine = "\r\x1b[K";

// 1234567 -> "1,234,567", in every locale.
std::string with_commas(int64_t value) {
  std::string text = std::to_string(value);
  const size_t first_digit = value < 0 ? 1 : 0;
  for (size_t i = text.size(); i > first_digit + 3;) text.insert(i -= 3, 1, ',');
  return text;
}

double share_done(const ProgressView& view) {
  const auto total = static_cast<double>(std::max<int64_t>(*view.total_steps, 1));
  return std::clamp(static_cast<double>(view.step.step) / total, 0.0, 1.0);
}

std::string percent(const ProgressView& view) {
  return fmt::format("{:3d}%", static_cast<int>(std::floor(100 * share_done(view))));
}

std::string step_count(const ProgressView& view) {
  return view.total_steps ? fmt::format("step {}/{}", view.step.step, *view.total_steps)
                          : fmt::format("step {}", view.step.step);
}

std::string speed(const ProgressView& view) {
  return with_commas(std::llround(tokens_per_second(view.step))) + " tok/s";
}

std::string remaining(const ProgressView& view) {
  return view.seconds_left ? format_duration(*view.seconds_left) + " left" : format_duration(view.seconds_elapsed);
}

std::string bar(double share, size_t columns) {
  const size_t inner = columns - 2;
  const auto filled = static_cast<size_t>(std::floor(share * static_cast<double>(inner)));
  std::string cells(filled, '=');
  if (filled < inner) cells += '>';
  cells.resize(inner, ' ');
  return fmt::format("[{}]", cells);
}

// In the order of the line; the last is the first to leave when there is no room.
std::vector<std::string> parts_of(const ProgressView& view) {
  std::vector<std::string> parts;
  if (view.total_steps) parts.push_back(percent(view));
  parts.push_back(step_count(view));
  parts.push_back(fmt::format("loss {:.4f}", view.step.loss));
  parts.push_back(speed(view));
  if (view.step.peak_memory_bytes > 0) parts.push_back(format_bytes(view.step.peak_memory_bytes));
  parts.push_back(remaining(view));
  return parts;
}

}  // namespace

std::string format_duration(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0 || seconds > 1e9) return "?";
  const auto total = std::llround(seconds);
  const auto days = total / 86400;
  const auto hours = total / 3600 % 24;
  const auto minutes = total / 60 % 60;
  if (days > 0) return fmt::format("{} d {:02}:{:02}", days, hours, minutes);
  if (hours > 0) return fmt::format("{}:{:02}:{:02}", hours, minutes, total % 60);
  return fmt::format("{}:{:02}", minutes, total % 60);
}

std::string format_bytes(int64_t bytes) {
  const auto value = static_cast<double>(bytes);
  if (value >= 999.5e6) return fmt::format("{:.2f} GB", value / 1e9);
  return fmt::format("{:.0f} MB", value / 1e6);
}

std::string format_live_line(const ProgressView& view, size_t columns) {
  std::string line;
  for (const std::string& part : parts_of(view)) {
    const size_t gap = line.empty() ? 0 : kGap.size();
    if (line.size() + gap + part.size() > columns) break;
    line.append(kGap.substr(0, gap)).append(part);
  }
  const size_t room = columns - line.size();
  if (view.total_steps && room >= kMinBarColumns + kGap.size()) {
    line.insert(0, bar(share_done(view), std::min(kMaxBarColumns, room - kGap.size())).append(kGap));
  }
  return line;
}

std::string format_plain_line(const ProgressView& view) {
  std::string line = step_count(view);
  if (view.total_steps) line += fmt::format(" ({:.0f}%)", std::floor(100 * share_done(view)));
  line += fmt::format("  loss {:.4f}  lr {:.2e}  {}", view.step.loss, view.step.learning_rate, speed(view));
  if (view.step.peak_memory_bytes > 0) line.append(kGap).append(format_bytes(view.step.peak_memory_bytes));
  return line.append(kGap).append(remaining(view));
}

LogFacts step_facts(const ProgressView& view) {
  LogFacts facts{.event = "step", .step = view.step.step};
  if (view.total_steps) facts.fields.emplace_back("total_steps", *view.total_steps);
  facts.fields.emplace_back("loss", view.step.loss);
  facts.fields.emplace_back("learning_rate", view.step.learning_rate);
  facts.fields.emplace_back("tokens_per_second", tokens_per_second(view.step));
  if (view.step.peak_memory_bytes > 0) facts.fields.emplace_back("peak_memory_bytes", view.step.peak_memory_bytes);
  if (view.seconds_left) facts.fields.emplace_back("seconds_left", *view.seconds_left);
  return facts;
}

Progress::Progress(const Options& options) : options_(options) {}

Progress::~Progress() { finish(); }

void Progress::step(const StepMetrics& step) {
  if (options_.terminal.style == ProgressStyle::kLive) {
    // One column stays free: a full line makes some terminals wrap.
    const size_t columns = std::max<size_t>(options_.terminal.columns, 2) - 1;
    live_line_ = format_live_line(view_of(step), columns);
    write(std::string(kClearLine) + live_line_);
    return;
  }
  const bool due = step.step % std::max<int64_t>(options_.logging_steps, 1) == 0 || step.step == options_.total_steps;
  if (!due) return;
  const ProgressView view = view_of(step);
  if (options_.terminal.style == ProgressStyle::kEvents)
    log_event(format_plain_line(view), step_facts(view));
  else
    write(format_plain_line(view) + "\n");
}

void Progress::note(std::string_view text, const LogFacts& facts) {
  if (options_.terminal.style == ProgressStyle::kLive) {
    write(fmt::format("{}{}\n{}", kClearLine, text, live_line_));
  } else if (options_.terminal.style == ProgressStyle::kEvents) {
    log_event(text, facts);
  } else {
    write(fmt::format("{}\n", text));
  }
}

void Progress::finish() {
  if (!live_line_.empty()) write("\n");
  live_line_.clear();
}

ProgressView Progress::view_of(const StepMetrics& step) const {
  ProgressView view{.step = step, .total_steps = options_.total_steps};
  view.seconds_elapsed = std::chrono::duration<double>(Clock::now() - start_).count();
  const int64_t steps_done = step.step - options_.start_step;
  if (options_.total_steps && steps_done > 0) {
    // From all that has passed, so that evaluations and checkpoints still to come are counted too.
    const auto steps_left = static_cast<double>(std::max<int64_t>(*options_.total_steps - step.step, 0));
    view.seconds_left = view.seconds_elapsed / static_cast<double>(steps_done) * steps_left;
  }
  return view;
}

void Progress::write(std::string_view text) const {
  if (options_.terminal.style != ProgressStyle::kSilent) write_to_watcher(options_.fd, text);
}

ProgressPhase::ProgressPhase(const Terminal& terminal, std::string_view name, int fd)
    : terminal_(terminal), name_(name), fd_(fd), exceptions_at_start_(std::uncaught_exceptions()) {
  if (terminal_.style == ProgressStyle::kLive) write_to_watcher(fd_, name_ + " ...");
  if (terminal_.style == ProgressStyle::kPlain) write_to_watcher(fd_, name_ + " ...\n");
  if (terminal_.style == ProgressStyle::kEvents) log_event(name_ + " ...", {.event = "phase"});
}

ProgressPhase::~ProgressPhase() {
  if (terminal_.style == ProgressStyle::kSilent) return;
  const double seconds = std::chrono::duration<double>(Clock::now() - start_).count();
  const std::string_view failed = std::uncaught_exceptions() > exceptions_at_start_ ? "failed after " : "";
  const std::string line = fmt::format("{} ... {}{:.1f} s", name_, failed, seconds);
  if (terminal_.style == ProgressStyle::kEvents)
    log_event(line, {.event = "phase", .fields = {{"seconds", seconds}}});
  else
    write_to_watcher(fd_, fmt::format("{}{}\n", terminal_.style == ProgressStyle::kLive ? kClearLine : "", line));
}

}  // namespace rankwise
