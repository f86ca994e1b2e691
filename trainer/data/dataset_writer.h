// The other end of dataset.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>
#include <vector>

#include "base/unique_handle.h"
#include "trainer/data/encode.h"
#include "trainer/data/packing.h"
#include "trainer/data/settings.h"

namespace rankwise {

// Writes the file that dataset.h describes, sample by sample: memory grows by eight bytes a sample, not with the
// tokens.
class DatasetWriter {
 public:
  // Truncates or creates `path`, which is not the final name: the caller renames it after finish().
  explicit DatasetWriter(const std::filesystem::path& path);
  void add(const EncodedSample& sample);
  std::vector<uint32_t> lengths() const;  // of the samples added
  // Writes the index and the header, and fsyncs. report: the counts that only the caller knows; the writer fills in
  // samples, tokens, target tokens and rows.
  void finish(const Rows& rows, std::string_view key, DataReport report);

 private:
  void append(std::span<const std::byte> bytes);
  void flush_block();

  std::filesystem::path path_;
  UniqueFd fd_;
  std::vector<std::byte> block_;  // not yet written
  uint64_t num_flushed_bytes_ = 0;
  uint64_t payload_hash_ = 0;
  std::vector<uint64_t> sample_starts_{0};
  int64_t num_target_tokens_ = 0;
};

}  // namespace rankwise
