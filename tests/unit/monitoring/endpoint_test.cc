#include "monitoring/endpoint.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <atomic>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "base/file.h"
#include "base/unique_handle.h"
#include "tests/support/expect_error.h"

namespace rankwise {
namespace {

using namespace std::chrono_literals;
using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;
using Clock = std::chrono::steady_clock;

constexpr double kScrapeLimitSeconds = 2;  // a few milliseconds on an idle machine

// A plain blocking client with a limit of 10 s on each call, so that a server that hangs fails the test.
class Client {
 public:
  explicit Client(const Endpoint& endpoint) : socket_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    const timeval limit{.tv_sec = 10, .tv_usec = 0};
    ::setsockopt(socket_.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    const auto& address = endpoint.address();
    EXPECT_EQ(::connect(socket_.get(), reinterpret_cast<const sockaddr*>(&address.socket_address), address.length), 0);
  }
  bool send(std::string_view text) {
    return ::send(socket_.get(), text.data(), text.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(text.size());
  }
  // Until the server closes.
  std::string receive_all() {
    std::string all;
    char buffer[4096];
    ssize_t n = 0;
    while ((n = ::recv(socket_.get(), buffer, sizeof(buffer), 0)) > 0) all.append(buffer, static_cast<size_t>(n));
    was_reset_ = n < 0;
    return all;
  }
  bool was_reset() const { return was_reset_; }

 private:
  bool was_reset_ = false;
  UniqueFd socket_;
};

std::string ask(const Endpoint& endpoint, std::string_view request) {
  Client client(endpoint);
  client.send(request);
  return client.receive_all();
}

std::string get(const Endpoint& endpoint, const std::string& path) {
  return ask(endpoint, "GET " + path + " HTTP/1.1\r\nHost: x\r\n\r\n");
}

double seconds_of_a_scrape(const Endpoint& endpoint) {
  const auto start = Clock::now();
  EXPECT_THAT(get(endpoint, "/metrics"), StartsWith("HTTP/1.1 200 OK\r\n"));
  return std::chrono::duration<double>(Clock::now() - start).count();
}

class EndpointTest : public ::testing::Test {
 protected:
  Endpoint endpoint_{parse_listen_address("127.0.0.1:0")};
};

TEST_F(EndpointTest, ServesTheTextThatWasPublishedLast) {
  endpoint_.publish("a_metric 1\n");
  endpoint_.publish("a_metric 2\n");
  EXPECT_EQ(get(endpoint_, "/metrics"),
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: 11\r\n"
            "Connection: close\r\n\r\na_metric 2\n");
}

TEST_F(EndpointTest, HeadGivesTheHeadersAlone) {
  endpoint_.publish("a_metric 1\n");
  const std::string answer = ask(endpoint_, "HEAD /metrics HTTP/1.0\r\n\r\n");
  EXPECT_THAT(answer, HasSubstr("Content-Length: 11\r\n"));
  EXPECT_THAT(answer, EndsWith("\r\n\r\n"));
}

TEST_F(EndpointTest, IsReadyOnlyWhenTheTrainerSaysSo) {
  EXPECT_THAT(get(endpoint_, "/healthz"), StartsWith("HTTP/1.1 200 "));
  EXPECT_THAT(get(endpoint_, "/readyz"), StartsWith("HTTP/1.1 503 "));
  endpoint_.set_ready(true);
  EXPECT_THAT(get(endpoint_, "/readyz"), StartsWith("HTTP/1.1 200 "));
  endpoint_.set_ready(false);
  EXPECT_THAT(get(endpoint_, "/readyz"), StartsWith("HTTP/1.1 503 "));
}

TEST_F(EndpointTest, AQueryIsIgnoredAndOtherPathsAreNotThere) {
  EXPECT_THAT(get(endpoint_, "/metrics?name=x"), StartsWith("HTTP/1.1 200 "));
  for (const char* path : {"//", "/metrics/", "/Metrics", "/../etc/passwd", "/metrics%00"}) {
    EXPECT_THAT(get(endpoint_, path), StartsWith("HTTP/1.1 404 ")) << path;
  }
}

TEST_F(EndpointTest, ServesThePageThatIsInTheSources) {
  const std::string answer = get(endpoint_, "/");
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n"));
  EXPECT_THAT(answer, EndsWith("\r\n\r\n" + read_file(RANKWISE_SOURCE_DIR "/monitoring/page/index.html", 1 << 20)));
}

TEST_F(EndpointTest, ThePageMayLoadNothingFromElsewhere) {
  const std::string answer = get(endpoint_, "/");
  EXPECT_THAT(answer, HasSubstr("\r\nContent-Security-Policy: default-src 'none'; script-src 'sha256-"));
  EXPECT_THAT(answer.substr(0, answer.find("\r\n\r\n")), Not(HasSubstr("unsafe")));
}

TEST_F(EndpointTest, ServesTheRunThatWasPublishedLast) {
  EXPECT_THAT(get(endpoint_, "/run.json"), EndsWith("\r\n\r\n{}"));
  endpoint_.publish_run(R"({"step":1})");
  endpoint_.publish_run(R"({"step":2})");
  const std::string answer = get(endpoint_, "/run.json");
  EXPECT_THAT(answer, HasSubstr("\r\nContent-Type: application/json\r\n"));
  EXPECT_THAT(answer, HasSubstr("\r\nCache-Control: no-store\r\n"));
  EXPECT_THAT(answer, EndsWith("\r\n\r\n{\"step\":2}"));
}

TEST_F(EndpointTest, WaitsForNoPageWhereNoneIsOpen) {
  endpoint_.publish_run("{}");
  const auto start = Clock::now();
  endpoint_.see_off(10s);
  EXPECT_LT(Clock::now() - start, 5s);
}

TEST_F(EndpointTest, APageThatIsOpenGetsTheLastNews) {
  get(endpoint_, "/run.json");
  endpoint_.publish_run(R"({"state":"finished"})");
  std::thread page([&] { EXPECT_THAT(get(endpoint_, "/run.json"), HasSubstr("finished")); });
  const auto start = Clock::now();
  endpoint_.see_off(60s);
  EXPECT_LT(Clock::now() - start, 30s);
  page.join();
}

TEST_F(EndpointTest, APageThatWasClosedHoldsNobodyUpForLong) {
  get(endpoint_, "/run.json");
  endpoint_.publish_run(R"({"state":"finished"})");
  const auto start = Clock::now();
  endpoint_.see_off(50ms);
  EXPECT_GE(Clock::now() - start, 50ms);
}

TEST_F(EndpointTest, OnlyGetAndHeadAreAnswered) {
  for (const char* method : {"POST", "PUT", "DELETE", "OPTIONS", "get", "X"}) {
    const std::string answer = ask(endpoint_, std::string(method) + " /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    EXPECT_THAT(answer, StartsWith("HTTP/1.1 405 ")) << method;
    EXPECT_THAT(answer, HasSubstr("Allow: GET, HEAD\r\n"));
  }
}

TEST_F(EndpointTest, NonsenseIsABadRequest) {
  for (const char* request :
       {"\r\n\r\n", "GET\r\n\r\n", "GET /metrics\r\n\r\n", "GET  /metrics HTTP/1.1\r\n\r\n",
        "GET metrics HTTP/1.1\r\n\r\n", "GET /metrics SSH-2.0\r\n\r\n", "\x16\x03\x01 x y\r\n\r\n"}) {
    EXPECT_THAT(ask(endpoint_, request), StartsWith("HTTP/1.1 400 ")) << request;
  }
}

TEST_F(EndpointTest, ARequestMayComeInPieces) {
  Client client(endpoint_);
  for (const char piece : std::string_view("GET /healthz HTTP/1.1\r\nA: b\r\n\r\n")) {
    ASSERT_TRUE(client.send({&piece, 1}));
    std::this_thread::sleep_for(2ms);
  }
  EXPECT_THAT(client.receive_all(), StartsWith("HTTP/1.1 200 "));
}

TEST_F(EndpointTest, ALongHeaderIsRefused) {
  const std::string request = "GET /metrics HTTP/1.1\r\nX: " + std::string(100000, 'a') + "\r\n\r\n";
  EXPECT_THAT(ask(endpoint_, request), StartsWith("HTTP/1.1 431 "));
}

// A reset could overtake the answer on its way.
TEST_F(EndpointTest, ABodyIsNeitherAwaitedNorAnsweredWithAReset) {
  Client client(endpoint_);
  client.send("POST /metrics HTTP/1.1\r\nContent-Length: 1073741824\r\n\r\n");
  client.send(std::string(1 << 16, 'x'));
  EXPECT_THAT(client.receive_all(), StartsWith("HTTP/1.1 405 "));
  EXPECT_FALSE(client.was_reset());
}

TEST_F(EndpointTest, APageLargerThanTheSocketBufferArrivesWhole) {
  const std::string page(4 << 20, 'm');
  endpoint_.publish(page);
  const std::string answer = get(endpoint_, "/metrics");
  EXPECT_TRUE(answer.ends_with("\r\n\r\n" + page));
}

TEST_F(EndpointTest, AConnectionThatSaysNothingIsClosedAfterASecond) {
  Client client(endpoint_);
  const auto start = Clock::now();
  EXPECT_EQ(client.receive_all(), "");
  const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
  EXPECT_GT(seconds, 0.8);
  EXPECT_LT(seconds, 5.0);
}

class StalledClients : public EndpointTest, public ::testing::WithParamInterface<int> {};

TEST_P(StalledClients, DoNotHoldUpAScrape) {
  std::vector<Client> stalled;
  for (int i = 0; i < GetParam(); ++i) stalled.emplace_back(endpoint_).send("GET /metrics HTTP/1.1\r\nX: ");
  EXPECT_LT(seconds_of_a_scrape(endpoint_), kScrapeLimitSeconds);
}

// A byte now and then renews a limit that is set on each read; the limit here is on the whole request.
TEST_F(EndpointTest, ClientsThatDripDoNotHoldUpAScrape) {
  std::vector<Client> stalled;
  for (int i = 0; i < 100; ++i) stalled.emplace_back(endpoint_).send("GET /metrics HTTP/1.1\r\nX: ");
  std::atomic<bool> stop = false;
  std::thread drip([&] {
    while (!stop) {
      for (Client& client : stalled) client.send("a");
      std::this_thread::sleep_for(100ms);
    }
  });
  for (int i = 0; i < 15; ++i) {
    EXPECT_LT(seconds_of_a_scrape(endpoint_), kScrapeLimitSeconds);
    std::this_thread::sleep_for(100ms);
  }
  stop = true;
  drip.join();
  EXPECT_FALSE(stalled.back().send("a") && stalled.back().send("a")) << "a dripping client was never closed";
}

// Asks for a large page and does not read it.
TEST_F(EndpointTest, ClientsThatDoNotReadDoNotHoldUpAScrape) {
  endpoint_.publish(std::string(4 << 20, 'm'));
  std::vector<Client> stalled;
  for (int i = 0; i < 16; ++i) stalled.emplace_back(endpoint_).send("GET /metrics HTTP/1.1\r\n\r\n");
  std::this_thread::sleep_for(50ms);
  endpoint_.publish("a_metric 1\n");
  EXPECT_LT(seconds_of_a_scrape(endpoint_), kScrapeLimitSeconds);
}

INSTANTIATE_TEST_SUITE_P(Count, StalledClients, ::testing::Values(2, 16, 100));

TEST_F(EndpointTest, EndsAtOnceWithClientsConnected) {
  auto endpoint = std::make_unique<Endpoint>(parse_listen_address("127.0.0.1:0"));
  Client silent(*endpoint);
  const auto start = Clock::now();
  endpoint.reset();
  EXPECT_LT(Clock::now() - start, 800ms);
  EXPECT_EQ(silent.receive_all(), "");
}

TEST_F(EndpointTest, PublishingAndScrapingAtOnceGivesWholePages) {
  const std::string a(30000, 'a'), b(30000, 'b');
  endpoint_.publish(a);
  std::atomic<bool> stop = false;
  std::thread trainer([&] {
    while (!stop) {
      endpoint_.publish(b);
      endpoint_.publish(a);
    }
  });
  for (int i = 0; i < 200; ++i) {
    const std::string answer = get(endpoint_, "/metrics");
    EXPECT_TRUE(answer.ends_with("\r\n\r\n" + a) || answer.ends_with("\r\n\r\n" + b));
  }
  stop = true;
  trainer.join();
}

TEST_F(EndpointTest, ATakenPortIsNamedAtTheStartWithTheRemedy) {
  const std::string taken = endpoint_.address().text();
  EXPECT_ERROR(Endpoint(endpoint_.address()), ListenError, taken, "another process has port",
               "--set monitoring.listen");
}

TEST_F(EndpointTest, APortIsFreeAgainAsSoonAsItsRunEnds) {
  auto first = std::make_unique<Endpoint>(parse_listen_address("127.0.0.1:0"));
  const ListenAddress address = first->address();
  get(*first, "/metrics");  // leaves a connection in TIME_WAIT on the server's side
  first.reset();
  EXPECT_NO_THROW(Endpoint endpoint(address));
}

TEST_F(EndpointTest, AnAddressOfAnotherHostIsRefused) {
  EXPECT_ERROR(Endpoint(parse_listen_address("192.0.2.1:9464")), ListenError, "192.0.2.1:9464",
               "an address of this host");
}

TEST(EndpointOfAnotherRank, SaysWhereThePageIs) {
  Endpoint endpoint(parse_listen_address("127.0.0.1:0"), /*has_page=*/false);
  endpoint.publish("a_metric 1\n");
  EXPECT_THAT(get(endpoint, "/metrics"), EndsWith("a_metric 1\n"));
  for (const char* path : {"/", "/run.json"}) {
    EXPECT_THAT(get(endpoint, path), AllOf(StartsWith("HTTP/1.1 404 "), HasSubstr("at rank 0's address"))) << path;
  }
}

TEST_F(EndpointTest, ShowsItsAddress) {
  EXPECT_EQ(endpoint_.url(), "http://127.0.0.1:" + std::to_string(endpoint_.address().port()) + "/");
  EXPECT_NE(endpoint_.address().port(), 0);
}

}  // namespace
}  // namespace rankwise
