// The HTTP pages of a run, for Prometheus, Kubernetes and people:
//   /           a page that shows the run, live     /run.json  what it shows, as it was published last
//   /metrics    the text that was published last    /healthz   200 while the process lives
//   /readyz     200 once set_ready(true), 503 before: the model is loaded and steps are being made
//
// Only rank 0 has the page; the endpoints of other ranks say where it is.
//
// An answer is a snapshot that the trainer publishes, so a scrape never waits for the training loop nor holds it up.
// There is no authentication: bind it to loopback, or to an address that only the monitoring can reach.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>

#include "monitoring/http_server.h"

namespace rankwise {

class Endpoint {
 public:
  // Throws ListenError when the port is taken or cannot be bound: then whoever has set monitoring.required decides
  // between a warning and the end. has_page: of rank 0.
  explicit Endpoint(const ListenAddress& listen, bool has_page = true);

  // All from any thread.
  void publish(std::string metrics_text);
  void publish_run(std::string run_json);
  void set_ready(bool ready) { ready_ = ready; }

  // For the end of a run: waits until a page that is open somewhere has asked for what was published last, at most
  // `patience`. Returns at once where no page asked in the last three seconds.
  void see_off(std::chrono::milliseconds patience);

  const ListenAddress& address() const noexcept { return server_.address(); }
  std::string url() const;  // "http://127.0.0.1:9464/"

 private:
  using Text = std::shared_ptr<const std::string>;
  using Clock = std::chrono::steady_clock;

  HttpResponse answer(std::string_view path);
  HttpResponse run_answer();
  void replace(Text& text, std::string next);

  bool has_page_;
  std::mutex mutex_;  // guards what follows, never held while an answer is made or sent
  Text metrics_text_ = std::make_shared<const std::string>();
  Text run_json_ = std::make_shared<const std::string>("{}");
  Text run_json_asked_for_;             // what the last answer took
  Clock::time_point last_asked_for_{};  // when
  std::condition_variable asked_;
  std::atomic<bool> ready_ = false;
  HttpServer server_;  // last: its thread uses all of the above
};

}  // namespace rankwise
