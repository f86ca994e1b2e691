#include "trainer/data/record_fields.h"

#include "base/check.h"

namespace rankwise {

using nlohmann::json;

std::string required_string(const json& object, const char* key, std::string_view where) {
  const auto at = object.find(key);
  RW_CHECK(at != object.end(), DataError, "{}{}: missing; this format needs it", where, key);
  RW_CHECK(at->is_string(), DataError, "{}{}: expected a string, found {}", where, key, at->type_name());
  auto text = at->get<std::string>();
  RW_CHECK(text.find('\0') == std::string::npos, DataError, "{}{}: holds a NUL character (\\u0000); remove it", where,
           key);
  return text;
}

std::string optional_string(const json& object, const char* key, std::string_view where) {
  const auto at = object.find(key);
  return at == object.end() || at->is_null() ? std::string() : required_string(object, key, where);
}

const json& required_list(const json& object, const char* key) {
  const auto at = object.find(key);
  RW_CHECK(at != object.end(), DataError, "{}: missing; this format needs it", key);
  RW_CHECK(at->is_array(), DataError, "{}: expected an array, found {}", key, at->type_name());
  RW_CHECK(!at->empty(), DataError, "{}: the array is empty", key);
  return *at;
}

void refuse_field(const json& object, const char* key) {
  const auto at = object.find(key);
  const bool harmless = at == object.end() || at->is_null() ||
                        (at->is_string() ? at->get_ref<const std::string&>().empty() : at->empty());
  RW_CHECK(harmless, DataError,
           "{}: not supported, and leaving it out would change the meaning; remove it or the record", key);
}

}  // namespace rankwise
