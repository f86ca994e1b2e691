#include "monitoring/http_connection.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <string_view>
#include <utility>

namespace rankwise {
namespace {

constexpr std::chrono::seconds kTimeLimit{1};
constexpr size_t kMaxRequestBytes = 4096;

std::string_view reason(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 400:
      return "Bad Request";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 431:
      return "Request Header Fields Too Large";
    case 503:
      return "Service Unavailable";
    default:
      return "Unknown";
  }
}

std::string serialize(const HttpResponse& response, bool with_body) {
  return fmt::format("HTTP/1.1 {} {}\r\nContent-Type: {}\r\nContent-Length: {}\r\n{}{}Connection: close\r\n\r\n{}",
                     response.status, reason(response.status), response.content_type, response.body.size(),
                     response.headers, response.status == 405 ? "Allow: GET, HEAD\r\n" : "",
                     with_body ? response.body : "");
}

// Takes the text up to the first `separator` off the front of `rest`.
std::string_view take(std::string_view& rest, char separator) {
  const size_t end = rest.find(separator);
  const std::string_view word = rest.substr(0, end);
  rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
  return word;
}

// `request`: all lines of a request up to the empty one; only the first is looked at.
std::string answer(std::string_view request, const HttpServer::Handler& handler) {
  std::string_view line = request.substr(0, request.find("\r\n"));
  const std::string_view method = take(line, ' ');
  std::string_view target = take(line, ' ');
  if (!line.starts_with("HTTP/1.") || !target.starts_with('/'))
    return serialize({.status = 400, .body = "bad request\n"}, true);
  const bool is_head = method == "HEAD";
  if (!is_head && method != "GET") return serialize({.status = 405, .body = "GET and HEAD alone\n"}, true);
  return serialize(handler(take(target, '?')), !is_head);
}

bool would_block() { return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR; }

}  // namespace

HttpConnection::HttpConnection(UniqueFd socket) : socket_(std::move(socket)), deadline_(Clock::now() + kTimeLimit) {}

short HttpConnection::wanted_events() const noexcept { return state_ == State::kWrite ? POLLOUT : POLLIN; }

bool HttpConnection::advance(const HttpServer::Handler& handler) {
  if (Clock::now() >= deadline_) return false;
  if (state_ == State::kRead && !read_request(handler)) return false;
  if (state_ == State::kWrite && !write_answer()) return false;
  return state_ != State::kLinger || discard_input();
}

bool HttpConnection::read_request(const HttpServer::Handler& handler) {
  std::array<char, kMaxRequestBytes> buffer;
  const ssize_t count = ::recv(socket(), buffer.data(), buffer.size() - request_.size(), 0);
  if (count <= 0) return count < 0 && would_block();
  request_.append(buffer.data(), static_cast<size_t>(count));
  if (request_.find("\r\n\r\n") != std::string::npos) {
    answer_ = answer(request_, handler);
  } else if (request_.size() == kMaxRequestBytes) {
    answer_ = serialize({.status = 431, .body = "a request has at most 4096 bytes\n"}, true);
  } else {
    return true;
  }
  state_ = State::kWrite;
  deadline_ = Clock::now() + kTimeLimit;
  return true;
}

bool HttpConnection::write_answer() {
  const std::string_view rest = std::string_view(answer_).substr(written_bytes_);
  const ssize_t count = ::send(socket(), rest.data(), rest.size(), MSG_NOSIGNAL);
  if (count < 0) return would_block();
  written_bytes_ += static_cast<size_t>(count);
  if (written_bytes_ < answer_.size()) return true;
  state_ = State::kLinger;
  return ::shutdown(socket(), SHUT_WR) == 0;
}

bool HttpConnection::discard_input() {
  std::array<char, 16384> buffer;
  const ssize_t count = ::recv(socket(), buffer.data(), buffer.size(), 0);
  return count > 0 || (count < 0 && would_block());
}

}  // namespace rankwise
