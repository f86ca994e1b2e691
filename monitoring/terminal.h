// How progress can be shown on standard error.
#pragma once

#include <cstddef>

namespace rankwise {

enum class ProgressStyle {
  kSilent,  // nothing: every rank but 0
  kPlain,   // a line now and then: a file, a pipe, a container's log
  kLive,    // one line that is drawn again and again: a terminal
  kEvents,  // a line of JSON for what kPlain has a line for
};

struct Terminal {
  ProgressStyle style = ProgressStyle::kPlain;
  size_t columns = 80;
};

// Looks at standard error, also through mpirun, which puts a pipe between a rank and the terminal. The environment
// variable RANKWISE_PROGRESS (live | plain | silent) decides instead where it is set. Above both: LogFormat::kJson.
Terminal detect_terminal(int rank);

}  // namespace rankwise
