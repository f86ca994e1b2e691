// The regular expressions that published tokenizers split text with. A pattern of a model file is run only if it is one
// of these, letter for letter: the regex engine backtracks, and a hostile pattern can take exponential time.
#pragma once

#include <string_view>

namespace rankwise {

bool is_known_pattern(std::string_view pattern) noexcept;

}  // namespace rankwise
