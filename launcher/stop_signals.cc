#include <csignal>

#include "launcher/commands/commands.h"

namespace rankwise {
namespace {

std::atomic<bool> stop{false};
static_assert(std::atomic<bool>::is_always_lock_free, "a signal handler may touch nothing else");

void request_stop(int) { stop = true; }

}  // namespace

const std::atomic<bool>& stop_requested() { return stop; }

void install_stop_signals() {
  struct sigaction action = {};
  action.sa_handler = request_stop;
  action.sa_flags = SA_RESTART;
  for (const int signal : {SIGTERM, SIGINT, SIGUSR1}) ::sigaction(signal, &action, nullptr);
  // A reader that went away and a limit on file sizes are errors of the write, with its place and exit code.
  for (const int signal : {SIGPIPE, SIGXFSZ}) ::signal(signal, SIG_IGN);
}

}  // namespace rankwise
