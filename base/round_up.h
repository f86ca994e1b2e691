// Sizes that are whole multiples: of a vector, a span, a tile.
#pragma once

#include <cstdint>

namespace rankwise {

// The least multiple of `multiple` that is no less than `value`. value >= 0, multiple > 0.
constexpr int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

}  // namespace rankwise
