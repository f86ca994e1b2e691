// The last lines that a run wrote for people, for its page. Thread-safe.
#pragma once

#include <cstddef>
#include <deque>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

namespace rankwise {

class LogTail {
 public:
  static constexpr size_t kMaxLines = 100;
  static constexpr size_t kMaxLineBytes = 1000;  // what is longer is cut, with an ellipsis

  struct Line {
    double time = 0;  // Unix, in seconds
    std::string text;
  };

  void add(std::string_view text);  // any bytes; a text of several lines is several
  std::vector<Line> lines() const;  // the oldest first

 private:
  void add_line(std::string_view line, double time);

  mutable std::mutex mutex_;
  std::deque<Line> lines_;
};

// Unix, in seconds.
double unix_time();

}  // namespace rankwise
