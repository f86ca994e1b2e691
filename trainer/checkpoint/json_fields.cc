#include "trainer/checkpoint/json_fields.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "base/error.h"

namespace rankwise {

void require_exact_keys(const nlohmann::json& object, std::initializer_list<std::string_view> keys,
                        std::string_view what) {
  RW_CHECK(object.is_object(), DataError, "{}: expected an object, found {}", what, object.type_name());
  for (const std::string_view key : keys) {
    RW_CHECK(object.contains(key), DataError, "{}: \"{}\" is missing", what, key);
  }
  for (const auto& item : object.items()) {
    RW_CHECK(std::ranges::find(keys, item.key()) != keys.end(), DataError, "{}: \"{}\" is not a known key", what,
             item.key());
  }
}

const std::string& json_string(const nlohmann::json& value, std::string_view what) {
  RW_CHECK(value.is_string(), DataError, "{}: expected a string, found {}", what, value.type_name());
  return value.get_ref<const std::string&>();
}

}  // namespace rankwise
