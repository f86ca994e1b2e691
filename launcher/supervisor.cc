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
#include <utility>

#include "base/console.h"
#include "base/error.h"
#include "base/log.h"

namespace rankwise {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr milliseconds kTick{100};  // how late a deadline may be seen
constexpr milliseconds kAskAgain{200}, kAskAgainAtMost{1000};
constexpr seconds kTermBeforeEnd{10}, kKillBeforeEnd{2};
constexpr seconds kLeftoversEnd{3};  // mpirun's ranks are gone a moment after it
constexpr size_t kMaxLineBytes = 4096;
constexpr int kSignals[] = {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGCHLD};

bool is_ignored(int signal) {
  struct sigaction now {};
  return ::sigaction(signal, nullptr, &now) == 0 && now.sa_handler == SIG_IGN;
}

// Without SIGHUP where nohup has us ignore it.
sigset_t watched_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : kSignals) sigaddset(&set, signal);
  if (is_ignored(SIGHUP)) sigdelset(&set, SIGHUP);
  return set;
}

// Takes the whole lines out of `text`, which keeps the rest; of a line that is too long, its beginning.
std::vector<std::string> take_lines(std::string& text) {
  std::vector<std::string> lines;
  size_t begin = 0;
  for (size_t end = 0; (end = text.find_first_of("\n\r", begin)) != std::string::npos; begin = end + 1)
    lines.push_back(text.substr(begin, std::min(end - begin, kMaxLineBytes)));
  text.erase(0, begin);
  text.resize(std::min(text.size(), kMaxLineBytes));
  return lines;
}

bool says_something(const std::string& line) { return line.find_first_not_of(" -=*") != std::string::npos; }

// Lines of ranks are passed on; what others say between them, in many lines at a time, is one message.
void pass_on_as_json(const std::vector<std::string>& lines) {
  std::string said;
  const auto log_said = [&said] {
    if (!said.empty()) log_message(LogLevel::kWarning, said, {.event = "mpirun"});
    said.clear();
  };
  for (const auto& line : lines) {
    if (read_log_line(line).is_json) {
      log_said();
      write_to_watcher(STDERR_FILENO, line + "\n");
    } else if (says_something(line)) {
      said += (said.empty() ? "" : "\n") + line;
    }
  }
  log_said();
}

[[noreturn]] void become(const std::vector<std::string>& command, int error_fd, int failure_fd) {
  std::vector<char*> words;
  for (const auto& word : command) words.push_back(const_cast<char*>(word.c_str()));
  words.push_back(nullptr);
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  const int nothing = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  dup2(nothing, STDIN_FILENO);
  dup2(error_fd, STDERR_FILENO);
  const sigset_t set = watched_signals();
  for (const int signal : kSignals) {
    if (sigismember(&set, signal) == 1) ::signal(signal, SIG_DFL);
  }
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
  UniqueFd errors;   // what it writes to stderr
  std::string text;  // of that, a line that has not ended yet
  std::string last_error, last_line;
  std::optional<int> status;
  milliseconds ask_again = kAskAgain;
  Clock::time_point ask_at, term_at = Clock::time_point::max(), kill_at = Clock::time_point::max();
  bool was_asked = false, term_sent = false, is_over = false, kill_sent = false;

  bool ended() const { return status.has_value(); }
  void send(int signal) const {
    if (!ended()) ::kill(pid, signal);
  }
  void stop();
  void ask();
  void hear(const std::vector<std::string>& lines);
  void listen(const std::string& line);
  void keep_deadlines();
  void pass_on_errors();
};

void Supervisor::Child::stop() {
  if (was_asked) return send(SIGTERM);
  was_asked = true;
  ask();
  if (policy.grace.count() == 0) return;
  const auto end = Clock::now() + policy.grace;
  term_at = end - kTermBeforeEnd;
  kill_at = std::min(kill_at, end - kKillBeforeEnd);
}

void Supervisor::Child::ask() {
  policy.ask(pid);
  ask_at = Clock::now() + std::exchange(ask_again, std::min(2 * ask_again, kAskAgainAtMost));
}

void Supervisor::Child::hear(const std::vector<std::string>& lines) {
  for (const auto& line : lines) listen(line);
  if (log_format() == LogFormat::kJson) pass_on_as_json(lines);
}

void Supervisor::Child::listen(const std::string& line) {
  const LogLine read = read_log_line(line);
  if (read.is_error) last_error = read.message;
  if (says_something(read.message)) last_line = read.message;
  if (is_over || !policy.says_it_is_over || !policy.says_it_is_over(read.message)) return;
  is_over = true;
  kill_at = std::min(kill_at, Clock::now() + policy.farewell);
}

void Supervisor::Child::keep_deadlines() {
  if (ended()) return;
  const auto now = Clock::now();
  if (was_asked && !term_sent && now >= ask_at) ask();
  if (!term_sent && (now >= term_at || (was_asked && policy.may_end && policy.may_end()))) {
    term_sent = true;
    send(SIGTERM);
  }
  if (now >= kill_at) {
    kill_sent = true;
    send(SIGKILL);
  }
}

void Supervisor::Child::pass_on_errors() {
  std::array<char, 65536> buffer;
  ssize_t count = 0;
  while ((count = ::read(errors.get(), buffer.data(), buffer.size())) > 0) {
    const std::string_view chunk(buffer.data(), static_cast<size_t>(count));
    if (log_format() == LogFormat::kText) write_to_watcher(STDERR_FILENO, chunk);
    hear(take_lines(text.append(chunk)));
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
  take_signals(nullptr);
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
  child.hear({child.text});
  const int status = *child.status;
  return {.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status),
          .stop_requested = stop_requested_,
          .said_over = child.is_over,
          .overstayed = child.is_over && child.kill_sent,
          .last_error = child.last_error.empty() ? child.last_line : child.last_error};
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
