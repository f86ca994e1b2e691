// Strict JSON for files that others made. Refuses what stock parsers let pass: duplicate keys, numbers out of range,
// NaN, byte-order marks, bad UTF-8, trailing text, depth above a limit, and input above a size limit.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace rankwise {

struct JsonLimits {
  uint64_t max_bytes = 64ull << 20;
  int max_depth = 64;
  bool wide_integers_as_double = false;  // transformers writes model_max_length as 10^30
  uint64_t max_values = 8ull << 20;      // a value takes up to 100 bytes in memory, two in the text
};

// Throws DataError("PLACE:line:column: reason"); the text itself is never part of the message.
nlohmann::json parse_json(std::string_view text, std::string_view place, const JsonLimits& limits = {});

// An exact non-negative integer up to 2^53. Throws DataError naming `what` for anything else (1.5, -1, "1", true).
uint64_t json_uint(const nlohmann::json& value, std::string_view what);

}  // namespace rankwise
