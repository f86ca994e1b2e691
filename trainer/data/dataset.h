// A prepared data set: tokens, samples and rows in one file that is mapped into memory, checked whole when it is
// opened.
//
// Format, little-endian: a header of 4,096 bytes (magic, version, key, counts, report, hashes) · u32 tokens: id, and
// bit 31 for "carries loss" · zeros up to a multiple of 8 bytes · u64 sample_starts[num_samples + 1] · u64
// row_starts[num_rows + 1] · u64 row_samples[num_samples].
// It is a cache: made anew from the data files whenever it does not verify, so the format may change with the version.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "trainer/data/settings.h"

namespace rankwise {

inline constexpr uint32_t kCarriesLoss = 1u << 31;

// Move-only; thread-safe to read. The spans live as long as the object.
class DatasetCache {
 public:
  // nullopt if there is no file. Throws DataError, which says what does not fit, if it is damaged, of another version
  // or of another key.
  static std::optional<DatasetCache> open(const std::filesystem::path& path, std::string_view key);

  int64_t num_rows() const noexcept { return static_cast<int64_t>(row_starts_.size()) - 1; }
  int64_t num_samples() const noexcept { return static_cast<int64_t>(sample_starts_.size()) - 1; }
  std::span<const uint64_t> samples_of_row(int64_t row) const;  // throws Error if there is no such row
  // Token ids, each with the bit kCarriesLoss or without.
  std::span<const uint32_t> tokens_of_sample(uint64_t sample) const;
  const DataReport& report() const noexcept { return report_; }
  // Hex SHA-256 of data files, tokenizer, template and settings: equal keys, equal batches.
  const std::string& key() const noexcept { return key_; }

 private:
  struct Unmap {
    size_t num_bytes = 0;
    void operator()(const std::byte* at) const noexcept;
  };
  using Mapping = std::unique_ptr<const std::byte, Unmap>;
  explicit DatasetCache(Mapping mapping);

  Mapping mapping_;
  std::span<const uint32_t> tokens_;
  std::span<const uint64_t> sample_starts_, row_starts_, row_samples_;
  DataReport report_;
  std::string key_;
};

}  // namespace rankwise
