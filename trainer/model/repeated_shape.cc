#include "trainer/model/repeated_shape.h"

#include <algorithm>

namespace rankwise {

bool RepeatedShape::comes(const Shape& shape) {
  in_a_row_ = shape == last_ ? in_a_row_ + 1 : 1;
  last_ = shape;
  return in_a_row_ >= wanted_;
}

void RepeatedShape::lost(int64_t uses) {
  constexpr int64_t kMost = 1 << 16;
  in_a_row_ = 0;
  wanted_ = uses < kPays ? std::min(2 * wanted_, kMost) : 2;
}

}  // namespace rankwise
