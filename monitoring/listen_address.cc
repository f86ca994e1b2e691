#include "monitoring/listen_address.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <charconv>
#include <cstring>

#include "base/check.h"

namespace rankwise {
namespace {

// Byte copies, as sockaddr_storage has another type than what lies in it.
template <typename SockAddr>
SockAddr as(const sockaddr_storage& storage) {
  SockAddr address;
  std::memcpy(&address, &storage, sizeof(address));
  return address;
}

template <typename SockAddr>
ListenAddress from(const SockAddr& address) {
  ListenAddress result;
  std::memcpy(&result.socket_address, &address, sizeof(address));
  result.length = sizeof(address);
  return result;
}

bool parse_port(std::string_view text, uint16_t& port) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), port);
  return error == std::errc() && end == text.data() + text.size() && !(text.size() > 1 && text.front() == '0');
}

}  // namespace

ListenAddress parse_listen_address(std::string_view text) {
  const size_t colon = text.rfind(':');
  const bool has_nul = text.find('\0') != std::string_view::npos;  // where inet_pton would stop reading
  uint16_t port = 0;
  if (!has_nul && colon != std::string_view::npos && parse_port(text.substr(colon + 1), port)) {
    const std::string host(text.substr(0, colon));
    sockaddr_in v4{};
    v4.sin_family = AF_INET;
    v4.sin_port = htons(port);
    if (inet_pton(AF_INET, host.c_str(), &v4.sin_addr) == 1) return from(v4);

    sockaddr_in6 v6{};
    v6.sin6_family = AF_INET6;
    v6.sin6_port = htons(port);
    const bool bracketed = host.size() > 2 && host.front() == '[' && host.back() == ']';
    if (bracketed && inet_pton(AF_INET6, host.substr(1, host.size() - 2).c_str(), &v6.sin6_addr) == 1) return from(v6);
  }
  throw ConfigError(
      fmt::format("monitoring.listen: {:?} is not an address and a port; write 127.0.0.1:9464 or [::1]:9464, "
                  "the port from 1 to 65535, or 0 for any free one",
                  text));
}

uint16_t ListenAddress::port() const {
  return ntohs(socket_address.ss_family == AF_INET6 ? as<sockaddr_in6>(socket_address).sin6_port
                                                    : as<sockaddr_in>(socket_address).sin_port);
}

std::string ListenAddress::text() const {
  char host[INET6_ADDRSTRLEN] = {};
  if (socket_address.ss_family == AF_INET6) {
    const auto address = as<sockaddr_in6>(socket_address);
    inet_ntop(AF_INET6, &address.sin6_addr, host, sizeof(host));
    return fmt::format("[{}]:{}", host, port());
  }
  const auto address = as<sockaddr_in>(socket_address);
  inet_ntop(AF_INET, &address.sin_addr, host, sizeof(host));
  return fmt::format("{}:{}", host, port());
}

ListenAddress behind(ListenAddress address, int offset) {
  if (address.port() == 0) return address;
  const int port = address.port() + offset;
  RW_CHECK(
      port <= 65535, ConfigError,
      "monitoring.listen: port {} and one a rank behind it (monitoring.endpoints: rank) need port {}, and 65535 is "
      "the last; choose a lower one",
      address.port(), port);
  auto& storage = address.socket_address;
  in_port_t& in_place = storage.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6&>(storage).sin6_port
                                                      : reinterpret_cast<sockaddr_in&>(storage).sin_port;
  in_place = htons(static_cast<uint16_t>(port));
  return address;
}

}  // namespace rankwise
