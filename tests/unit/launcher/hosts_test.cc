#include "launcher/hosts.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "base/unique_handle.h"
#include "tests/support/expect_error.h"

namespace rankwise {
namespace {

using std::chrono::milliseconds;

// A port of loopback that is bound, and listened on after listen().
struct Port {
  UniqueFd fd{::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  int number = 0;
  Port() {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    auto* any = reinterpret_cast<sockaddr*>(&address);
    EXPECT_EQ(::bind(fd.get(), any, size), 0);
    EXPECT_EQ(::getsockname(fd.get(), any, &size), 0);
    number = ntohs(address.sin_port);
  }
  void listen() const { EXPECT_EQ(::listen(fd.get(), 8), 0); }
};

bool go_on(milliseconds) { return true; }

TEST(Hosts, ThisHostIsThere) { EXPECT_TRUE(wait_for_hosts({{"localhost", 2}}, 1, milliseconds(0), go_on)); }

TEST(Hosts, AreWaitedForUntilTheyListen) {
  const Port port;
  int rounds = 0;
  const auto open_in_the_third_round = [&](milliseconds) {
    if (++rounds == 2) port.listen();
    return true;
  };
  EXPECT_TRUE(wait_for_hosts({{"127.0.0.1", 1}}, port.number, milliseconds(60'000), open_in_the_third_round));
  EXPECT_EQ(rounds, 2);
}

TEST(Hosts, ThoseThatNeverComeAreNamedWithTheReason) {
  const Port port;
  EXPECT_ERROR((wait_for_hosts({{"127.0.0.1", 1}, {"nobody.invalid", 1}}, port.number, milliseconds(0), go_on)),
               UnavailableError, "127.0.0.1: Connection refused", "nobody.invalid: ", "--ssh-port");
}

TEST(Hosts, WaitingCanBeGivenUp) {
  const Port port;
  EXPECT_FALSE(
      wait_for_hosts({{"127.0.0.1", 1}}, port.number, milliseconds(60'000), [](milliseconds) { return false; }));
}

}  // namespace
}  // namespace rankwise
