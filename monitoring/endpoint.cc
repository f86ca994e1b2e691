#include "monitoring/endpoint.h"

#include <utility>

namespace rankwise {

Endpoint::Endpoint(std::string_view listen)
    : server_(parse_listen_address(listen), [this](std::string_view path) { return answer(path); }) {}

void Endpoint::publish(std::string metrics_text) {
  auto next = std::make_shared<const std::string>(std::move(metrics_text));
  const std::lock_guard lock(mutex_);
  metrics_text_.swap(next);
}

std::string Endpoint::url() const { return "http://" + address().text() + "/metrics"; }

HttpResponse Endpoint::answer(std::string_view path) {
  if (path == "/healthz") return {.body = "ok\n"};
  if (path == "/readyz")
    return ready_ ? HttpResponse{.body = "ready\n"} : HttpResponse{.status = 503, .body = "not ready\n"};
  if (path != "/metrics") return {.status = 404, .body = "pages: /metrics /healthz /readyz\n"};

  std::shared_ptr<const std::string> text;
  {
    const std::lock_guard lock(mutex_);
    text = metrics_text_;
  }
  return {.content_type = "text/plain; version=0.0.4; charset=utf-8", .body = *text};
}

}  // namespace rankwise
