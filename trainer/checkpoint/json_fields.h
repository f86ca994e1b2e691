// Exact reading of the small JSON objects of this folder: every key present, no other key, the right type.
#pragma once

#include <initializer_list>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace rankwise {

// Throws DataError naming `what` and the key that is missing or unknown.
void require_exact_keys(const nlohmann::json& object, std::initializer_list<std::string_view> keys,
                        std::string_view what);

// Throws DataError naming `what` if the value is no string.
const std::string& json_string(const nlohmann::json& value, std::string_view what);

}  // namespace rankwise
