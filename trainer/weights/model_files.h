// A Hugging Face model directory: which file holds which tensor, and ranged reads by tensor name.
// model.safetensors, or model.safetensors.index.json with its shards. Files are only read.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "trainer/weights/safetensors.h"

namespace rankwise {

// Thread-safe after construction.
class ModelFiles {
 public:
  // Throws NoInputError (no weights; names the remedy where only pytorch_model.bin or a .gguf is there) and DataError
  // (index that points outside the directory, tensor missing in its shard or listed twice, ...).
  explicit ModelFiles(const std::filesystem::path& model_dir);

  const TensorEntry* find(std::string_view name) const noexcept;
  const TensorEntry& entry(std::string_view name) const;  // DataError, with the nearest name, if absent
  std::vector<std::string> names() const;                 // sorted
  void read(std::string_view name, uint64_t offset_bytes, std::span<std::byte> out) const;
  uint64_t bytes_read() const noexcept;   // tensor bytes read by this process so far
  uint64_t total_bytes() const noexcept;  // of all tensors

 private:
  struct Located {
    size_t file;
    const TensorEntry* entry;
  };
  void open_shards(const std::vector<std::string>& present);
  void open_files(const std::set<std::string>& names);
  const Located* locate(std::string_view name) const noexcept;
  std::filesystem::path directory_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::map<std::string, Located, std::less<>> tensors_;
};

}  // namespace rankwise
