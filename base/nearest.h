// The name that a mistyped one was probably meant to be, for error messages.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace rankwise {

// The candidate with the fewest single-character edits to `wanted` (the first of several); empty without candidates.
std::string nearest_name(std::string_view wanted, std::span<const std::string> candidates);

}  // namespace rankwise
