// "127.0.0.1:9464" or "[::1]:9464": where the metrics page is served.
#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <string>
#include <string_view>

namespace rankwise {

struct ListenAddress {
  sockaddr_storage socket_address{};
  socklen_t length = 0;

  uint16_t port() const;
  std::string text() const;  // as it is parsed; what getsockname says can be put back into it
};

// Numeric only, so that what is bound never depends on a name service: an IPv4 address, or an IPv6 one in brackets, and
// a port from 0 to 65535; 0 takes any free port. Throws ConfigError with the form that is wanted.
ListenAddress parse_listen_address(std::string_view text);

// The same address at the port `offset` further on; any free port stays that. Throws ConfigError beyond 65535.
ListenAddress behind(ListenAddress address, int offset);

}  // namespace rankwise
