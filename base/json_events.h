// Strict JSON as a stream of events, for input whose tree would be many times its size. Refuses all that base/json.h
// refuses but one thing: duplicate keys are the receiver's to find, since it alone knows which it has kept.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "base/json.h"

namespace rankwise {

// Thrown by a receiver. read_json_events makes it a DataError with the place in front.
struct JsonRefusal {
  std::string reason;
};

class JsonReceiver {
 public:
  virtual ~JsonReceiver() = default;
  virtual void begin_object() = 0;
  virtual void key(std::string&& name) = 0;
  virtual void end_object() = 0;
  virtual void begin_array() = 0;
  virtual void end_array() = 0;
  virtual void scalar(nlohmann::json&& value) = 0;  // string, integer, finite number, true, false or null
};

// Throws DataError("PLACE:line:column: reason"); columns count bytes. Uses no memory beyond the longest string.
void read_json_events(std::string_view text, std::string_view place, const JsonLimits& limits, JsonReceiver& receiver);

}  // namespace rankwise
