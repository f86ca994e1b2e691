// A small HTTP/1.x server for pages of up to some hundred kilobytes that are always at hand: one thread, no thread a
// client.
//
// A training process must answer a scrape whatever other clients do, and must not pay for them. So each connection has
// one second to send its request and one to take the answer, however slowly it drips (a limit on each read, as general
// servers have it, is renewed by every byte); a request is at most 4 KiB; there are at most 64 connections, and a new
// one closes the oldest. One answer a connection; GET and HEAD alone.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <thread>

#include "base/error.h"
#include "base/unique_handle.h"
#include "monitoring/listen_address.h"

namespace rankwise {

// The address cannot be bound: taken, privileged, or not of this host. A ConfigError (78), but not the file's fault.
struct ListenError : ConfigError {
  using ConfigError::ConfigError;
};

struct HttpResponse {
  int status = 200;
  std::string content_type = "text/plain; charset=utf-8";
  std::string headers = {};  // further ones, whole lines: "Cache-Control: no-store\r\n"
  std::string body;
};

class HttpServer {
 public:
  // Answers the path of a GET or HEAD, without its query. Called from the server's thread; must not block or throw.
  using Handler = std::function<HttpResponse(std::string_view path)>;

  // Binds and starts to answer. Throws ListenError naming the address and the remedy.
  HttpServer(const ListenAddress& address, Handler handler);
  ~HttpServer();  // closes all connections and joins the thread
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  // What was bound: with the port that was found for port 0.
  const ListenAddress& address() const noexcept { return address_; }

 private:
  void start();
  void serve() const;

  Handler handler_;
  UniqueFd listener_;
  UniqueFd stop_event_;
  ListenAddress address_;
  std::thread thread_;
};

}  // namespace rankwise
