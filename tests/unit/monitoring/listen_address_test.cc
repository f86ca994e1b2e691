#include "monitoring/listen_address.h"

#include <gtest/gtest.h>

#include <string>

#include "base/error.h"
#include "tests/support/expect_error.h"

namespace rankwise {
namespace {

TEST(ListenAddress, ReadsIPv4AndIPv6) {
  for (const char* text : {"127.0.0.1:9464", "0.0.0.0:1", "[::1]:65535", "[::]:80", "127.0.0.1:0", "[fe80::1]:9464"}) {
    EXPECT_EQ(parse_listen_address(text).text(), text);
  }
  EXPECT_EQ(parse_listen_address("127.0.0.1:9464").port(), 9464);
  EXPECT_EQ(parse_listen_address("[::1]:9465").port(), 9465);
}

TEST(ListenAddress, TheRanksOfAHostHaveThePortsBehindTheFirst) {
  EXPECT_EQ(behind(parse_listen_address("127.0.0.1:9464"), 0).text(), "127.0.0.1:9464");
  EXPECT_EQ(behind(parse_listen_address("127.0.0.1:9464"), 7).text(), "127.0.0.1:9471");
  EXPECT_EQ(behind(parse_listen_address("[::1]:65534"), 1).text(), "[::1]:65535");
  EXPECT_EQ(behind(parse_listen_address("127.0.0.1:0"), 3).text(), "127.0.0.1:0");
  EXPECT_ERROR(behind(parse_listen_address("127.0.0.1:65530"), 6), ConfigError, "monitoring.listen", "65530", "65536",
               "choose a lower one");
}

class MalformedListenAddress : public ::testing::TestWithParam<std::string> {};

TEST_P(MalformedListenAddress, IsAConfigErrorThatShowsTheRightForm) {
  EXPECT_ERROR(parse_listen_address(GetParam()), ConfigError, "monitoring.listen", "write 127.0.0.1:9464");
}

// A bare port would bind every interface in other programs, and a name depends on a name service.
INSTANTIATE_TEST_SUITE_P(Forms, MalformedListenAddress,
                         ::testing::Values("", ":", "9464", ":9464", "127.0.0.1", "127.0.0.1:", "localhost:9464",
                                           "127.0.0.1:65536", "127.0.0.1:-1", "127.0.0.1:+1", "127.0.0.1: 1",
                                           "127.0.0.1:1 ", "127.0.0.1:09464", "127.0.0.1:0x50", "127.0.0.1:1e3",
                                           "127.1:9464", "256.0.0.1:9464", "127.0.0.1.:9464", "::1:9464", "[::1]",
                                           "[]:1", "[127.0.0.1]:9464", "[::1:9464", "http://127.0.0.1:9464",
                                           "127.0.0.1:9464/", std::string("127.0.0.1\0.x:9464", 17)));

}  // namespace
}  // namespace rankwise
