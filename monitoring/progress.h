// What a person at the terminal sees of a run, on standard error:
//   loading weights ... 3.1 s
//   [==========>         ]  52%  step 104/200  loss 3.6123  1,234 tok/s  1.42 GB  1:23 left
//
// On a terminal the last line is drawn again in place after every step. Elsewhere one line is written every
// `logging_steps` steps and after the last; ProgressStyle::kEvents: that line as JSON with its facts (base/log_line.h).
// Nothing is ever longer than the terminal is wide.
// Used by one thread. Failures to write are ignored: a closed terminal does not end a run.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/log_line.h"
#include "monitoring/step_metrics.h"
#include "monitoring/terminal.h"

namespace rankwise {

struct ProgressView {
  StepMetrics step;
  std::optional<int64_t> total_steps = {};  // unknown: no bar, no share, no time left
  double seconds_elapsed = 0;               // of this process
  std::optional<double> seconds_left = {};
};

// The line above, at most `columns` long: the bar shrinks first, then parts leave from the right.
std::string format_live_line(const ProgressView& view, size_t columns);
// The same facts and the learning rate, without a bar.
std::string format_plain_line(const ProgressView& view);
std::string format_duration(double seconds);  // "0:07", "1:23", "2:03:04", "3 d 04:05"
std::string format_bytes(int64_t bytes);      // "950 MB", "1.42 GB": powers of 1000

// The facts of that line, for programs.
LogFacts step_facts(const ProgressView& view);

class Progress {
 public:
  struct Options {
    Terminal terminal = {};
    std::optional<int64_t> total_steps = {};
    int64_t start_step = 0;  // steps done before this process began
    int64_t logging_steps = 1;
    int fd = 2;
  };
  explicit Progress(const Options& options);
  ~Progress();  // leaves the cursor on a fresh line
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void step(const StepMetrics& step);
  // A line that stays, above the live one: "step 100: eval loss 3.6123".
  void note(std::string_view text, const LogFacts& facts = {});
  // Ends the live line, so that what others write to standard error does not mix with it.
  void finish();

 private:
  using Clock = std::chrono::steady_clock;
  ProgressView view_of(const StepMetrics& step) const;
  void write(std::string_view text) const;

  Options options_;
  Clock::time_point start_ = Clock::now();
  std::string live_line_;  // what is on the terminal's last line now
};

// "loading weights ... 3.1 s": the words when it begins, the seconds when its scope ends, "failed after" when an
// exception ends it; as events "phase", with the seconds in the second. Not to be mixed with Progress::step, which
// comes after the phases of the start.
class ProgressPhase {
 public:
  ProgressPhase(const Terminal& terminal, std::string_view name, int fd = 2);
  ~ProgressPhase();
  ProgressPhase(const ProgressPhase&) = delete;
  ProgressPhase& operator=(const ProgressPhase&) = delete;

 private:
  using Clock = std::chrono::steady_clock;
  Terminal terminal_;
  std::string name_;
  int fd_;
  int exceptions_at_start_;
  Clock::time_point start_ = Clock::now();
};

}  // namespace rankwise
