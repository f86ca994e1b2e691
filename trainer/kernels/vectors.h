// Vectors of floats as the compiler knows them, for files that are compiled once for each instruction set. Everything
// is local to the including file and nothing of the standard library's templates is used: a function that the linker
// shares between files compiled for different instruction sets would run where it must not.
#pragma once

#include <cstdint>
#include <cstring>

namespace rankwise {
namespace {

template <int Width>
struct Vectors {
  typedef float Float __attribute__((vector_size(4 * Width)));
  typedef uint32_t Bits __attribute__((vector_size(4 * Width)));
  typedef uint16_t Half __attribute__((vector_size(2 * Width)));
};

template <typename V>
inline V load(const void* from) {
  V value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

template <typename V>
inline void store(void* to, V value) {
  std::memcpy(to, &value, sizeof value);
}

}  // namespace
}  // namespace rankwise
