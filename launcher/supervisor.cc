#include "launcher/supervisor.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <fstream>
#include <optional>

#include "base/error.h"

namespace rankwise {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr milliseconds kTick{100};  // how late a deadline may be seen
constexpr seconds kTermBeforeEnd{10}, kKillBeforeEnd{2}, kKillAfterFarewell{5};
constexpr seconds kLeftoversEnd{3};  // mpirun's ranks are gone a moment after it
constexpr size_t kMaxLineBytes = 4096;
constexpr int kSignals[] = {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGCHLD};

sigset_t watched_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : kSignals) sigaddset(&set, signal);
  return set;
}

// What a program writes to stderr, by lines; and of these the last that says most about why it ended.
class ErrorLines {
 public:
  explicit ErrorLines(std::function<void(std::string_view line)> on_line) : on_line_(std::move(on_line)) {}
  void add(std::string_view text) {
    for (const char c : text) {
      if (c == '\n' || c == '\r')
        take();
      else if (line_.size() < kMaxLineBytes)
        line_ += c;
    }
  }
  std::string last() {
    take();
    return error_.empty() ? any_ : error_;
  }

 private:
  void take() {
    on_line_(line_);
    if (line_.find("error") != std::string::npos || line_.starts_with("rankwise:")) error_ = line_;
    if (line_.find_first_not_of(" -=*") != std::string::npos) any_ = line_;
    line_.clear();
  }
  std::function<void(std::string_view)> on_line_;
  std::string line_, error_, any_;
};

[[noreturn]] void become(const std::vector<std::string>& command, int error_fd, int failure_fd) {
  std::vector<char*> words;
  for (const auto& word : command) words.push_back(const_cast<char*>(word.c_str()));
  words.push_back(nullptr);
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  const int nothing = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  dup2(nothing, STDIN_FILENO);
  dup2(error_fd, STDERR_FILENO);
  for (const int signal : kSignals) ::signal(signal, SIG_DFL);
  const sigset_t set = watched_signals();
  sigprocmask(SIG_UNBLOCK, &set, nullptr);
  execvp(words[0], words.data());
  const int problem = errno;
  if (::write(failure_fd, &problem, sizeof(problem)) < 0) _exit(126);
  _exit(127);
}

std::pair<UniqueFd, UniqueFd> make_pipe() {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) throw_errno("pipe", errno);
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

std::vector<pid_t> children_of_this_process() {
  std::ifstream file("/proc/thread-self/children");
  std::vector<pid_t> children;
  for (pid_t pid = 0; file >> pid;) children.push_back(pid);
  return children;
}

}  // namespace

struct Supervisor::Child {
  explicit Child(const StopPolicy& how) : policy(how) {}
  const StopPolicy& policy;
  pid_t pid = -1;
  UniqueFd errors;  // what it writes to stderr
  ErrorLines lines{[this](std::string_view line) { listen(line); }};
  std::optional<int> status;
  Clock::time_point term_at = Clock::time_point::max(), kill_at = Clock::time_point::max();
  bool was_asked = false, term_sent = false, is_over = false;

  bool ended() const { return status.has_value(); }
  void send(int signal) const {
    if (!ended()) ::kill(pid, signal);
  }
  void stop();
  void listen(std::string_view line);
  void end_by(Clock::time_point term, Clock::time_point kill);
  void keep_deadlines();
  void pass_on_errors();
};

void Supervisor::Child::stop() {
  if (was_asked) return send(SIGTERM);
  was_asked = true;
  const auto now = Clock::now();
  policy.ask(pid);
  if (policy.grace.count() > 0) end_by(now + policy.grace - kTermBeforeEnd, now + policy.grace - kKillBeforeEnd);
}

void Supervisor::Child::listen(std::string_view line) {
  if (is_over || !policy.says_it_is_over || !policy.says_it_is_over(line)) return;
  is_over = true;
  const auto farewell = Clock::now() + policy.farewell;
  end_by(farewell, farewell + kKillAfterFarewell);
}

void Supervisor::Child::end_by(Clock::time_point term, Clock::time_point kill) {
  term_at = std::min(term_at, term);
  kill_at = std::min(kill_at, kill);
}

void Supervisor::Child::keep_deadlines() {
  if (ended()) return;
  const auto now = Clock::now();
  if (!term_sent && (now >= term_at || (was_asked && policy.may_end && policy.may_end()))) {
    term_sent = true;
    send(SIGTERM);
  }
  if (now >= kill_at) send(SIGKILL);
}

void Supervisor::Child::pass_on_errors() {
  std::array<char, 65536> buffer;
  ssize_t count = 0;
  while ((count = ::read(errors.get(), buffer.data(), buffer.size())) > 0) {
    lines.add({buffer.data(), static_cast<size_t>(count)});
    for (ssize_t done = 0, written = 0; done < count; done += written) {
      written = ::write(STDERR_FILENO, buffer.data() + done, static_cast<size_t>(count - done));
      if (written <= 0) break;  // nobody reads; the program goes on
    }
  }
  if (count == 0) errors.reset();  // closed; poll would say so for ever
}

Supervisor::Supervisor() {
  const sigset_t set = watched_signals();
  sigprocmask(SIG_BLOCK, &set, nullptr);
  signals_ = UniqueFd(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals_) throw_errno("signalfd", errno);
  prctl(PR_SET_CHILD_SUBREAPER, 1);
}

Supervisor::~Supervisor() {
  const sigset_t set = watched_signals();
  sigprocmask(SIG_UNBLOCK, &set, nullptr);
}

Outcome Supervisor::run(const std::vector<std::string>& command, const StopPolicy& policy) {
  auto [errors, errors_in] = make_pipe();
  auto [failure, failure_in] = make_pipe();
  Child child(policy);
  child.pid = ::fork();
  if (child.pid < 0) throw_errno("fork", errno);
  if (child.pid == 0) become(command, errors_in.get(), failure_in.get());
  errors_in.reset();
  failure_in.reset();
  child.errors = std::move(errors);
  ::fcntl(child.errors.get(), F_SETFL, O_NONBLOCK);
  int problem = 0;
  const bool failed = ::read(failure.get(), &problem, sizeof(problem)) == sizeof(problem);
  watch(child);
  if (failed) throw_errno("start " + command.front(), problem);
  end_leftovers();
  child.pass_on_errors();
  const int status = *child.status;
  return {.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status),
          .stop_requested = stop_requested_,
          .overstayed = child.is_over && child.term_sent,
          .last_error = child.lines.last()};
}

void Supervisor::watch(Child& child) {
  while (!child.ended()) {
    std::array<pollfd, 2> wanted = {{{signals_.get(), POLLIN, 0}, {child.errors.get(), POLLIN, 0}}};
    ::poll(wanted.data(), wanted.size(), static_cast<int>(kTick.count()));
    child.pass_on_errors();
    take_signals(&child);
    child.keep_deadlines();
  }
}

void Supervisor::take_signals(Child* child) {
  signalfd_siginfo info;
  while (::read(signals_.get(), &info, sizeof(info)) == sizeof(info)) {
    if (info.ssi_signo == SIGCHLD) {
      reap(child);
      continue;
    }
    stop_requested_ = true;
    if (child != nullptr) child->stop();
  }
}

// All that has ended: the program, and whatever became our child.
void Supervisor::reap(Child* child) {
  int status = 0;
  for (pid_t pid = 0; (pid = ::waitpid(-1, &status, WNOHANG)) > 0;) {
    if (child != nullptr && pid == child->pid) child->status = status;
  }
}

void Supervisor::end_leftovers() {
  const auto deadline = Clock::now() + kLeftoversEnd;
  for (auto left = children_of_this_process(); !left.empty(); left = children_of_this_process()) {
    if (Clock::now() >= deadline) {
      for (const pid_t pid : left) ::kill(pid, SIGKILL);
    }
    pollfd wanted{signals_.get(), POLLIN, 0};
    ::poll(&wanted, 1, static_cast<int>(kTick.count()));
    take_signals(nullptr);
    reap(nullptr);
  }
}

bool Supervisor::stopped_within(milliseconds time) {
  const auto deadline = Clock::now() + time;
  for (take_signals(nullptr); !stop_requested_ && Clock::now() < deadline; take_signals(nullptr)) {
    pollfd wanted{signals_.get(), POLLIN, 0};
    const auto left = std::chrono::duration_cast<milliseconds>(deadline - Clock::now()) + milliseconds(1);
    ::poll(&wanted, 1, static_cast<int>(left.count()));
  }
  return stop_requested_;
}

}  // namespace rankwise
