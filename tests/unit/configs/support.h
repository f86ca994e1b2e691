// A smallest valid file, and the message that a text is refused with.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "configs/run_config.h"

namespace rankwise {

// Four lines, so that a line appended is line 5.
inline constexpr std::string_view kMinimal =
    "run: {output_dir: runs/x}\n"
    "model: {path: models/m}\n"
    "data: {train: [{path: a.jsonl, format: text}]}\n"
    "train: {max_steps: 200}\n";

inline std::string error_of(std::string_view text, const std::vector<std::string>& overrides = {}) {
  try {
    parse_run_config(text, "FILE", overrides);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "accepted";
}

}  // namespace rankwise
