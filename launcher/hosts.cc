#include "launcher/hosts.h"

#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <memory>
#include <string>

#include "base/error.h"
#include "base/host_name.h"
#include "base/log.h"
#include "base/unique_handle.h"

namespace rankwise {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr milliseconds kBetweenRounds{500}, kConnectTime{2000};

bool is_here(const std::string& name) {
  const std::string full = host_name();
  return name == "localhost" || name == full || name.substr(0, name.find('.')) == full;
}

// Empty: connected; else why not.
std::string connect_problem(const addrinfo& address) {
  const UniqueFd fd(::socket(address.ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd) return std::strerror(errno);
  if (::connect(fd.get(), address.ai_addr, address.ai_addrlen) == 0) return "";
  if (errno != EINPROGRESS) return std::strerror(errno);
  pollfd wanted{fd.get(), POLLOUT, 0};
  if (::poll(&wanted, 1, static_cast<int>(kConnectTime.count())) == 0) return "no answer";
  int problem = 0;
  socklen_t size = sizeof(problem);
  ::getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &problem, &size);
  return problem == 0 ? "" : std::strerror(problem);
}

// Empty: it is there.
std::string problem_of(const std::string& name, int port) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (const int code = ::getaddrinfo(name.c_str(), std::to_string(port).c_str(), &hints, &found); code != 0)
    return ::gai_strerror(code);
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owned(found, &::freeaddrinfo);
  std::string problem = "no address";
  for (const addrinfo* one = found; one != nullptr && !problem.empty(); one = one->ai_next)
    problem = connect_problem(*one);
  return problem;
}

// "worker-1: Connection refused, worker-2: Name or service not known"
std::string missing_hosts(const std::vector<Host>& hosts, int port) {
  std::string missing;
  for (const auto& host : hosts) {
    if (is_here(host.name)) continue;
    const std::string problem = problem_of(host.name, port);
    if (!problem.empty()) missing += fmt::format("{}{}: {}", missing.empty() ? "" : ", ", host.name, problem);
  }
  return missing;
}

}  // namespace

bool wait_for_hosts(const std::vector<Host>& hosts, int port, milliseconds limit,
                    const std::function<bool(milliseconds)>& pause) {
  const auto deadline = Clock::now() + limit;
  std::string told;
  for (std::string missing; !(missing = missing_hosts(hosts, port)).empty();) {
    if (Clock::now() >= deadline)
      throw UnavailableError(
          fmt::format("hosts that do not answer on port {} after {} s: {}; are they up, and is this "
                      "their SSH port (--ssh-port)?",
                      port, limit.count() / 1000, missing));
    if (missing != told) log_info("waiting for hosts, port {}: {}", port, missing);
    told = missing;
    if (!pause(kBetweenRounds)) return false;
  }
  return true;
}

}  // namespace rankwise
