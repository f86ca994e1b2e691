// train_log.jsonl: the numbers of a run, one JSON object a line, in the order of its steps.
//   {"step":10,"epoch":0.4,"loss":3.91,"grad_norm":1.2,"learning_rate":0.0002,"target_tokens":812,"input_tokens":4012,
//    "tokens_per_second":1532.1,"step_seconds":2.62,"peak_memory_bytes":1423000000}
//   {"step":10,"eval_loss":3.61,"eval_target_tokens":15034}
// A number that is not finite is written as null. Each line is one write(2), so that a reader, or a kill, sees whole
// lines. Used by one thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/unique_handle.h"
#include "monitoring/step_metrics.h"

namespace rankwise {

struct LossPoint {
  int64_t step = 0;
  double loss = 0;  // may be NaN
};

// What is drawn: every point of the log, those from before a resume too.
struct LossCurves {
  std::vector<LossPoint> train;
  std::vector<LossPoint> eval;
};

class RunLog {
 public:
  // A log that writes nothing: for every rank but 0.
  RunLog() = default;

  // Makes the log that a run needs which continues with `next_step`: 0 for a fresh run (an old log is emptied), s + 1
  // for one that resumes from checkpoint s. Lines of `next_step` and later are removed, as they will be written again;
  // so is a line that is torn or no log line, with a warning. Throws Error / IoError naming the file.
  RunLog(std::filesystem::path path, int64_t next_step);

  // Throw IoError when the line cannot be written whole; none of it is in the file then.
  void write_step(const StepMetrics& step);
  void write_eval(int64_t step, double eval_loss, int64_t eval_target_tokens);

  // Puts all lines on the disk. Call before a checkpoint counts as saved, so that no power cut leaves a checkpoint with
  // a log that ends before it.
  void sync() const;

  const LossCurves& curves() const noexcept { return curves_; }

 private:
  void append(std::string line);

  std::filesystem::path path_;
  UniqueFd file_;
  LossCurves curves_;
};

}  // namespace rankwise
