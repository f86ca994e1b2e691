#include "monitoring/endpoint.h"

#include <utility>

#include "monitoring/page.h"

namespace rankwise {
namespace {

constexpr std::chrono::seconds kPageIsOpen{3};  // it asks every second

constexpr std::string_view kNoStore = "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n";

HttpResponse page_answer() {
  std::string headers(kNoStore);
  headers.append("Referrer-Policy: no-referrer\r\nContent-Security-Policy: ").append(page_security_policy());
  return {.content_type = "text/html; charset=utf-8", .headers = headers + "\r\n", .body = std::string(page_html())};
}

}  // namespace

Endpoint::Endpoint(const ListenAddress& listen, bool has_page)
    : has_page_(has_page), server_(listen, [this](std::string_view path) { return answer(path); }) {}

void Endpoint::publish(std::string metrics_text) { replace(metrics_text_, std::move(metrics_text)); }
void Endpoint::publish_run(std::string run_json) { replace(run_json_, std::move(run_json)); }

void Endpoint::replace(Text& text, std::string next) {
  auto made = std::make_shared<const std::string>(std::move(next));
  const std::lock_guard lock(mutex_);
  text.swap(made);
}

void Endpoint::see_off(std::chrono::milliseconds patience) {
  std::unique_lock lock(mutex_);
  if (!run_json_asked_for_ || Clock::now() - last_asked_for_ > kPageIsOpen) return;
  asked_.wait_for(lock, patience, [this] { return run_json_asked_for_ == run_json_; });
}

std::string Endpoint::url() const { return "http://" + address().text() + "/"; }

HttpResponse Endpoint::answer(std::string_view path) {
  if (path == "/healthz") return {.body = "ok\n"};
  if (path == "/readyz")
    return ready_ ? HttpResponse{.body = "ready\n"} : HttpResponse{.status = 503, .body = "not ready\n"};
  if (!has_page_ && (path == "/" || path == "/run.json"))
    return {.status = 404, .body = "the page of the run is at rank 0's address; here: /metrics\n"};
  if (path == "/") return page_answer();
  if (path == "/run.json") return run_answer();
  if (path != "/metrics") return {.status = 404, .body = "pages: / /run.json /metrics /healthz /readyz\n"};

  Text text;
  {
    const std::lock_guard lock(mutex_);
    text = metrics_text_;
  }
  return {.content_type = "text/plain; version=0.0.4; charset=utf-8", .body = *text};
}

HttpResponse Endpoint::run_answer() {
  Text text;
  {
    const std::lock_guard lock(mutex_);
    text = run_json_asked_for_ = run_json_;
    last_asked_for_ = Clock::now();
  }
  asked_.notify_all();
  return {.content_type = "application/json", .headers = std::string(kNoStore), .body = *text};
}

}  // namespace rankwise
