// Runs a program as the first process of a container must, and as mpirun wants to be run: in a process group of its
// own, so that a Ctrl-C reaches us alone; asked to stop gently before it is told to; its orphans reaped and ended.
//
// Why not mpirun itself: on SIGTERM Open MPI leaves its ranks a second, whatever time the host grants. SIGUSR1 it
// passes on, and a rank that gets it finishes its step, saves and leaves with 75.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/unique_handle.h"

namespace rankwise {

struct StopPolicy {
  // At the first SIGTERM, SIGINT, SIGHUP (unless it was ignored before us) or SIGUSR1: asks the program, or whom it
  // works for, to stop. Called again after 0.2 s, then up to every second until the program ends: mpirun drops a signal
  // that comes before its ranks are there to get it.
  std::function<void(pid_t program)> ask;
  // Where the program does not end by itself after that: true once it may be ended. Null: it does.
  std::function<bool()> may_end;
  // From the first signal on; SIGTERM follows 10 s before, SIGKILL 2 s before it is over. 0: no end.
  std::chrono::seconds grace{0};
  // Of a message on its stderr: does it say that the program's work is over? One that stays `farewell` longer than that
  // gets SIGKILL: mpirun would answer SIGTERM with a trace of its stack, and not end sooner. Null: none does.
  std::function<bool(std::string_view message)> says_it_is_over = nullptr;
  std::chrono::seconds farewell{20};
};

struct Outcome {
  int code = 0;                 // of the program; 128 + the signal that ended it
  bool stop_requested = false;  // we were signalled
  bool said_over = false;       // it said that its work is over
  bool overstayed = false;      // after which it had to be ended
  std::string last_error;       // the last message on its stderr that names an error; else its last one
};

// One at a time, in a process without other threads: SIGTERM, SIGINT, SIGHUP, SIGUSR1 and SIGCHLD stay blocked while
// it lives, and children of ended children become ours.
class Supervisor {
 public:
  Supervisor();
  ~Supervisor();  // drops signals that nobody can obey any more
  Supervisor(const Supervisor&) = delete;
  Supervisor& operator=(const Supervisor&) = delete;

  // Starts `command` (found in PATH) with stdin from /dev/null, its stderr passed on to ours, and waits for its end and
  // that of all that it left behind. A second signal sends SIGTERM at once. Throws throw_errno's error where it cannot
  // be started. With LogFormat::kJson the lines of ranks are passed on, and what mpirun or a library says in several
  // lines at once becomes one of ours.
  Outcome run(const std::vector<std::string>& command, const StopPolicy& policy);

  // Waits; true as soon as a signal asked us to stop, also one that came before.
  bool stopped_within(std::chrono::milliseconds time);

 private:
  struct Child;
  void watch(Child& child);
  void take_signals(Child* child);
  void reap(Child* child);
  void end_leftovers();

  UniqueFd signals_;
  bool stop_requested_ = false;
};

}  // namespace rankwise
