#include "monitoring/http_server.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <utility>
#include <vector>

#include "base/check.h"
#include "monitoring/http_connection.h"

namespace rankwise {
namespace {

using Clock = HttpConnection::Clock;
constexpr size_t kMaxConnections = 64;
constexpr int kBacklog = 128;

[[noreturn]] void throw_listen_error(const ListenAddress& address, int errno_value) {
  std::string remedy = "give an address of this host in monitoring.listen";
  if (errno_value == EADDRINUSE) {
    remedy = fmt::format(
        "another process has port {0}: end it (`ss -ltnp 'sport = :{0}'` names it) or choose another port "
        "with --set monitoring.listen",
        address.port());
  } else if (errno_value == EACCES) {
    remedy =
        fmt::format("port {} needs a privilege: choose one above 1023 with --set monitoring.listen", address.port());
  }
  throw ListenError(fmt::format("monitoring.listen: cannot serve metrics on {}: {}; {}", address.text(),
                                std::strerror(errno_value), remedy));
}

UniqueFd listen_on(const ListenAddress& address) {
  UniqueFd listener(::socket(address.socket_address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!listener) throw_listen_error(address, errno);
  // A restarted run takes its port back at once. Not SO_REUSEPORT, with which two runs would share one unnoticed.
  const int yes = 1;
  ::setsockopt(listener.get(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
  const auto* socket_address = reinterpret_cast<const sockaddr*>(&address.socket_address);
  if (::bind(listener.get(), socket_address, address.length) != 0 || ::listen(listener.get(), kBacklog) != 0) {
    throw_listen_error(address, errno);
  }
  return listener;
}

ListenAddress bound_address(int listener) {
  ListenAddress address;
  address.length = sizeof(address.socket_address);
  ::getsockname(listener, reinterpret_cast<sockaddr*>(&address.socket_address), &address.length);
  return address;
}

// Out of file descriptors: the oldest client gives way, and the one that waits is taken in the next round. When the
// rest of the process holds them all, rounds come one in 50 ms, as the waiting client would wake every poll.
void make_room(std::vector<HttpConnection>& connections) {
  if (!connections.empty()) {
    connections.erase(connections.begin());
  } else {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
}

void accept_all(int listener, std::vector<HttpConnection>& connections) {
  for (;;) {
    UniqueFd socket(::accept4(listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!socket) {
      if (errno == EMFILE || errno == ENFILE) make_room(connections);
      return;
    }
    if (connections.size() == kMaxConnections) connections.erase(connections.begin());
    connections.emplace_back(std::move(socket));
  }
}

int milliseconds_until(Clock::time_point deadline) {
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
  return static_cast<int>(std::max<int64_t>(left, 0));
}

// Sleeps until a socket is ready or a connection is out of time.
void wait(std::vector<pollfd>& polled, const std::vector<HttpConnection>& connections) {
  int timeout_ms = -1;
  if (!connections.empty()) {
    timeout_ms = milliseconds_until(std::ranges::min_element(connections, {}, &HttpConnection::deadline)->deadline());
  }
  polled.resize(2);
  for (const auto& connection : connections) polled.push_back({connection.socket(), connection.wanted_events(), 0});
  ::poll(polled.data(), polled.size(), timeout_ms);
}

}  // namespace

HttpServer::HttpServer(const ListenAddress& address, Handler handler)
    : handler_(std::move(handler)),
      listener_(listen_on(address)),
      stop_event_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      address_(bound_address(listener_.get())) {
  if (!stop_event_) throw_errno("metrics page: eventfd", errno);
  start();
}

HttpServer::~HttpServer() {
  ::eventfd_write(stop_event_.get(), 1);
  thread_.join();
}

// The thread blocks every signal, so that SIGTERM and its like still interrupt the thread that trains.
void HttpServer::start() {
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  thread_ = std::thread([this] { serve(); });
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void HttpServer::serve() const {
  std::vector<HttpConnection> connections;  // oldest first
  std::vector<pollfd> polled = {{stop_event_.get(), POLLIN, 0}, {listener_.get(), POLLIN, 0}};
  for (;;) {
    wait(polled, connections);
    if (polled[0].revents != 0) return;
    std::erase_if(connections, [this](HttpConnection& connection) { return !connection.advance(handler_); });
    if (polled[1].revents != 0) accept_all(listener_.get(), connections);
  }
}

}  // namespace rankwise
