// Exact reading of one JSON object whose fields may be absent. Every message is "PLACE: FIELD: VALUE: what is wrong".
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace rankwise {

class ConfigFields {
 public:
  // `object` stays the caller's. Throws DataError if it is no object.
  ConfigFields(const nlohmann::json& object, std::string place);

  const std::string& place() const noexcept { return place_; }
  const nlohmann::json* get(std::string_view key) const;  // null where absent or null
  bool is_absent(std::string_view key) const;             // not even null

  // The value where it is there and not null. Throw DataError for a wrong type or a value out of range.
  std::optional<int64_t> integer(std::string_view key, int64_t min, int64_t max) const;
  std::optional<double> number(std::string_view key, double min, double max) const;
  std::optional<bool> flag(std::string_view key) const;
  std::optional<std::string> text(std::string_view key) const;

  int64_t required_integer(std::string_view key, int64_t min, int64_t max) const;
  double required_number(std::string_view key, double min, double max) const;

  [[noreturn]] void refuse(std::string_view key, std::string_view reason) const;

 private:
  const nlohmann::json& object_;
  std::string place_;
};

}  // namespace rankwise
