// The first page of a prepared data set, shared by its reader and its writer.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

#include "base/hash.h"
#include "trainer/data/settings.h"

namespace rankwise {

struct DatasetHeader {
  static constexpr std::array<char, 8> kMagic = {'r', 'w', 't', 'o', 'k', 'e', 'n', 's'};
  static constexpr uint64_t kVersion = 1;  // raise it when DataReport, the format or the encoding rules change

  std::array<char, 8> magic = kMagic;
  uint64_t version = kVersion;
  std::array<char, 64> key{};
  uint64_t num_tokens = 0;
  uint64_t num_samples = 0;
  uint64_t num_rows = 0;
  DataReport report;
  uint64_t payload_hash = 0;  // of all behind the header, block by block, each seeded with the one before
  uint64_t header_hash = 0;   // of all above

  uint64_t hash_above() const {
    return hash64(std::as_bytes(std::span(this, 1)).first(offsetof(DatasetHeader, header_hash)), 0);
  }
};
static_assert(std::is_trivially_copyable_v<DatasetHeader> && std::has_unique_object_representations_v<DatasetHeader>);

inline constexpr size_t kDatasetHeaderBytes = 4096;
inline constexpr size_t kDatasetBlockBytes = 1u << 20;
static_assert(sizeof(DatasetHeader) <= kDatasetHeaderBytes);

// Tokens are followed by zeros up to a multiple of eight bytes.
constexpr uint64_t padded_token_bytes(uint64_t num_tokens) { return (num_tokens * sizeof(uint32_t) + 7) / 8 * 8; }

}  // namespace rankwise
