// One client of HttpServer: reads a request, writes the answer, never blocks. Used by the server's thread alone.
#pragma once

#include <chrono>
#include <cstddef>
#include <string>

#include "base/unique_handle.h"
#include "monitoring/http_server.h"

namespace rankwise {

class HttpConnection {
 public:
  using Clock = std::chrono::steady_clock;

  explicit HttpConnection(UniqueFd socket);  // non-blocking

  int socket() const noexcept { return socket_.get(); }
  Clock::time_point deadline() const noexcept { return deadline_; }
  short wanted_events() const noexcept;  // for poll

  // Goes on as far as the socket allows. False when the connection is over.
  bool advance(const HttpServer::Handler& handler);

 private:
  // kLinger: the answer is out, and what the client still sends is thrown away, as a close with unread bytes would
  // reset the connection and could take the answer away from a client that is slow to read.
  enum class State { kRead, kWrite, kLinger };

  bool read_request(const HttpServer::Handler& handler);
  bool write_answer();
  bool discard_input();

  UniqueFd socket_;
  State state_ = State::kRead;
  Clock::time_point deadline_;
  std::string request_;
  std::string answer_;
  size_t written_bytes_ = 0;
};

}  // namespace rankwise
