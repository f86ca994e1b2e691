#include "base/log_line.h"

#include <fmt/format.h>

#include <array>
#include <chrono>
#include <ctime>
#include <nlohmann/json.hpp>

#include "base/host_name.h"

namespace rankwise {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kMaxLineBytes = 4095;  // and its end

std::string utc_now() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  const int64_t milliseconds = std::chrono::duration_cast<std::chrono::milliseconds>(now).count();
  const std::time_t seconds = milliseconds / 1000;
  std::tm parts{};
  ::gmtime_r(&seconds, &parts);
  std::array<char, 32> text{};
  const size_t length = std::strftime(text.data(), text.size(), "%FT%T", &parts);
  return fmt::format("{}.{:03}Z", std::string_view(text.data(), length), milliseconds % 1000);
}

Json json_of(LogLevel level, int rank, const LogFacts& facts) {
  Json json;
  json["time"] = utc_now();
  json["level"] = log_level_name(level);
  json["rank"] = rank < 0 ? Json() : Json(rank);
  json["host"] = host_name();
  if (!facts.event.empty()) json["event"] = facts.event;
  if (facts.step) json["step"] = *facts.step;
  for (const auto& [name, value] : facts.fields)
    std::visit([&json, &name = name](const auto& known) { json[std::string(name)] = known; }, value);
  return json;
}

std::string text_of(const nlohmann::json& json, const char* key) {
  const auto found = json.find(key);
  return found != json.end() && found->is_string() ? found->get<std::string>() : "";
}

}  // namespace

std::string_view log_level_name(LogLevel level) {
  constexpr std::string_view kNames[] = {"debug", "info", "warning", "error"};
  return kNames[static_cast<size_t>(level)];
}

std::string json_log_line(LogLevel level, int rank, std::string_view message, const LogFacts& facts) {
  Json json = json_of(level, rank, facts);
  const auto line_with = [&](std::string text) {
    json["message"] = std::move(text);
    return json.dump(-1, ' ', false, Json::error_handler_t::replace);
  };
  std::string line = line_with(std::string(message));
  // An escaped byte takes up to six: how many fit is found by trying.
  for (size_t bytes = message.size() / 2; line.size() > kMaxLineBytes && bytes > 0; bytes /= 2)
    line = line_with(std::string(message.substr(0, bytes)) + " ...");
  return line;
}

LogLine read_log_line(std::string_view line) {
  if (line.starts_with('{')) {
    const auto json = nlohmann::json::parse(line, nullptr, false);
    if (json.is_object() && json.contains("level") && json.contains("message"))
      return {.is_json = true, .is_error = text_of(json, "level") == "error", .message = text_of(json, "message")};
  }
  const bool is_error = line.find("error") != std::string_view::npos || line.starts_with("rankwise:");
  return {.is_error = is_error, .message = std::string(line)};
}

}  // namespace rankwise
