// Fields of a parsed record, with errors that name the field and the type found, never the value.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace rankwise {

// A string without NUL characters. Throws DataError if it is missing, null or of another type. where: "messages[2]." or
// "".
std::string required_string(const nlohmann::json& object, const char* key, std::string_view where = "");
// "" where the key is missing or null.
std::string optional_string(const nlohmann::json& object, const char* key, std::string_view where = "");
// A non-empty array.
const nlohmann::json& required_list(const nlohmann::json& object, const char* key);
// Throws DataError if the key is there with anything but null or an empty value.
void refuse_field(const nlohmann::json& object, const char* key);

}  // namespace rankwise
