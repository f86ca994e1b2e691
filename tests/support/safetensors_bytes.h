// safetensors files put together by hand, right or wrong.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace rankwise::testing {

inline std::string little_endian_u64(uint64_t value) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>(value >> (8 * i) & 0xff);
  return bytes;
}

// The length, the header as it is, and `data_bytes` of data that count up from 0.
inline std::string safetensors_bytes(std::string_view header, size_t data_bytes) {
  std::string file = little_endian_u64(header.size());
  file += header;
  for (size_t i = 0; i < data_bytes; ++i) file += static_cast<char>(i);
  return file;
}

}  // namespace rankwise::testing
