// The 16-bit floating-point formats of adapter files, widened exactly.
#pragma once

#include <bit>
#include <cstdint>

namespace rankwise {

// IEEE 754 binary16.
constexpr float float_of_half(uint16_t half) {
  const uint32_t sign = uint32_t{half} >> 15 << 31;
  const uint32_t exponent = half >> 10 & 0x1f;
  const uint32_t fraction = half & 0x3ff;
  if (exponent == 0) {  // zero or subnormal: fraction * 2^-24
    const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
    return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
  }
  const uint32_t wide_exponent = exponent == 0x1f ? 0xff : exponent + 127 - 15;
  return std::bit_cast<float>(sign | wide_exponent << 23 | fraction << 13);
}

// The upper half of a binary32.
constexpr float float_of_bfloat16(uint16_t bfloat) { return std::bit_cast<float>(uint32_t{bfloat} << 16); }

}  // namespace rankwise
