#include "trainer/weights/config_fields.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "base/check.h"

namespace rankwise {

using nlohmann::json;

ConfigFields::ConfigFields(const json& object, std::string place) : object_(object), place_(std::move(place)) {
  RW_CHECK(object.is_object(), DataError, "{}: expected an object, found {}", place_, object.type_name());
}

const json* ConfigFields::get(std::string_view key) const {
  const auto at = object_.find(std::string(key));
  return at == object_.end() || at->is_null() ? nullptr : &*at;
}

bool ConfigFields::is_absent(std::string_view key) const { return !object_.contains(std::string(key)); }

std::optional<int64_t> ConfigFields::integer(std::string_view key, int64_t min, int64_t max) const {
  const json* value = get(key);
  if (!value) return std::nullopt;
  const bool fits = value->is_number_integer() && *value >= min && *value <= max;
  if (!fits) refuse(key, fmt::format("must be an integer from {} to {}", min, max));
  return value->get<int64_t>();
}

std::optional<double> ConfigFields::number(std::string_view key, double min, double max) const {
  const json* value = get(key);
  if (!value) return std::nullopt;
  const bool fits = value->is_number() && value->get<double>() >= min && value->get<double>() <= max;
  if (!fits) refuse(key, fmt::format("must be a number from {} to {}", min, max));
  return value->get<double>();
}

std::optional<bool> ConfigFields::flag(std::string_view key) const {
  const json* value = get(key);
  if (!value) return std::nullopt;
  if (!value->is_boolean()) refuse(key, "must be true or false");
  return value->get<bool>();
}

std::optional<std::string> ConfigFields::text(std::string_view key) const {
  const json* value = get(key);
  if (!value) return std::nullopt;
  if (!value->is_string()) refuse(key, "must be a string");
  return value->get<std::string>();
}

int64_t ConfigFields::required_integer(std::string_view key, int64_t min, int64_t max) const {
  const auto value = integer(key, min, max);
  if (!value) refuse(key, fmt::format("must be an integer from {} to {}", min, max));
  return *value;
}

double ConfigFields::required_number(std::string_view key, double min, double max) const {
  const auto value = number(key, min, max);
  if (!value) refuse(key, fmt::format("must be a number from {} to {}", min, max));
  return *value;
}

void ConfigFields::refuse(std::string_view key, std::string_view reason) const {
  constexpr size_t kShownBytes = 60;
  constexpr int kCompact = -1;
  constexpr bool kAsciiOnly = true;
  const auto at = object_.find(std::string(key));
  std::string value = at == object_.end() ? "missing" : at->dump(kCompact, ' ', kAsciiOnly);
  if (value.size() > kShownBytes) value = value.substr(0, kShownBytes) + "...";
  throw DataError(fmt::format("{}: {}: {}: {}", place_, key, value, reason));
}

}  // namespace rankwise
