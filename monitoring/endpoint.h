// The HTTP pages of a run, for Prometheus, Kubernetes and people:
//   /metrics   the text that was published last     /healthz   200 while the process lives
//   /readyz    200 once set_ready(true), 503 before: the model is loaded and steps are being made
//
// A page is a snapshot that the trainer publishes, so a scrape never waits for the training loop nor holds it up.
// There is no authentication: bind it to loopback, or to an address that only the monitoring can reach.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>

#include "monitoring/http_server.h"

namespace rankwise {

class Endpoint {
 public:
  // `listen` as monitoring.listen has it. Throws ConfigError when it is malformed, ListenError when the port is taken
  // or cannot be bound: then whoever has set monitoring.required decides between a warning and the end.
  explicit Endpoint(std::string_view listen);

  // Both from any thread.
  void publish(std::string metrics_text);
  void set_ready(bool ready) { ready_ = ready; }

  const ListenAddress& address() const noexcept { return server_.address(); }
  std::string url() const;  // "http://127.0.0.1:9464/metrics"

 private:
  HttpResponse answer(std::string_view path);

  std::mutex mutex_;  // guards the pointer alone, never held while a page is made or sent
  std::shared_ptr<const std::string> metrics_text_ = std::make_shared<const std::string>();
  std::atomic<bool> ready_ = false;
  HttpServer server_;  // last: its thread uses all of the above
};

}  // namespace rankwise
