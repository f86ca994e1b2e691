// Random numbers as a function of a key and a counter. There is no state to save, and the numbers are the same at any
// world size and with every compiler and standard library, which std::shuffle and std::normal_distribution do not
// promise. Source: the output function of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number
// Generators, 2014).
#pragma once

#include <cmath>
#include <cstdint>
#include <numbers>

namespace rankwise {

constexpr uint64_t mix64(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

// A place in the stream of `key`, from which the next numbers are had with a multiplication less each.
struct StreamPlace {
  uint64_t state;
  constexpr StreamPlace(uint64_t key, uint64_t counter) : state(key + (counter + 1) * kStep) {}
  constexpr uint64_t number(uint64_t ahead) const { return mix64(state + ahead * kStep); }
  static constexpr uint64_t kStep = 0x9E3779B97F4A7C15ull;
};

// The counter-th number of the stream of `key`; also a way to make a key out of a key and one more word.
constexpr uint64_t random64(uint64_t key, uint64_t counter) { return StreamPlace(key, counter).number(0); }

// Of 0 .. bound-1. The bias is below bound / 2^64.
constexpr uint64_t random_below(uint64_t key, uint64_t counter, uint64_t bound) {
  return static_cast<uint64_t>((static_cast<unsigned __int128>(random64(key, counter)) * bound) >> 64);
}

// In [0, 1), of 53 bits.
constexpr double random_unit(uint64_t key, uint64_t counter) {
  return static_cast<double>(random64(key, counter) >> 11) * 0x1p-53;
}

// Standard normal (Box and Muller 1958).
inline double random_normal(uint64_t key, uint64_t counter) {
  const double radius = std::sqrt(-2.0 * std::log(1.0 - random_unit(key, 2 * counter)));
  return radius * std::cos(2.0 * std::numbers::pi * random_unit(key, 2 * counter + 1));
}

}  // namespace rankwise
