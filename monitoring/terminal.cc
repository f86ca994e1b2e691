#include "monitoring/terminal.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>

#include "base/log.h"
#include "base/unique_handle.h"

namespace rankwise {
namespace {

// mpirun reads a rank's standard error from a pipe and copies it to its own, byte by byte. So a rank is on a terminal
// when it was started by Open MPI, writes to a pipe, and its parent's standard error is a terminal. On another host
// than mpirun's the parent is a daemon without one.
UniqueFd terminal_of_mpirun() {
  struct stat status {};
  const bool is_pipe = ::fstat(STDERR_FILENO, &status) == 0 && (S_ISFIFO(status.st_mode) || S_ISSOCK(status.st_mode));
  if (!is_pipe || std::getenv("OMPI_COMM_WORLD_SIZE") == nullptr) return {};
  const std::string parent_stderr = "/proc/" + std::to_string(::getppid()) + "/fd/2";
  return UniqueFd(::open(parent_stderr.c_str(), O_WRONLY | O_NOCTTY | O_NONBLOCK | O_CLOEXEC));
}

std::optional<size_t> columns_of(int fd) {
  winsize size{};
  if (::isatty(fd) == 0) return std::nullopt;
  return ::ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : Terminal{}.columns;
}

ProgressStyle style_from_environment(ProgressStyle otherwise) {
  const char* value = std::getenv("RANKWISE_PROGRESS");
  const std::string_view word = value == nullptr ? "" : value;
  if (word == "live") return ProgressStyle::kLive;
  if (word == "plain") return ProgressStyle::kPlain;
  if (word == "silent") return ProgressStyle::kSilent;
  return otherwise;
}

}  // namespace

Terminal detect_terminal(int rank) {
  if (rank != 0) return {.style = ProgressStyle::kSilent};
  if (log_format() == LogFormat::kJson) return {.style = ProgressStyle::kEvents};
  Terminal terminal;
  std::optional<size_t> columns = columns_of(STDERR_FILENO);
  if (!columns) columns = columns_of(terminal_of_mpirun().get());
  if (columns) terminal = {.style = ProgressStyle::kLive, .columns = *columns};
  terminal.style = style_from_environment(terminal.style);
  return terminal;
}

}  // namespace rankwise
