// Reading byte ranges of safetensors files, and writing them. Format: u64 little-endian header length, JSON header
// {"name": {"dtype", "shape", "data_offsets": [begin, end]}, "__metadata__": {...}}, data. Source of the rules:
// huggingface/safetensors README and safetensors/src/tensor.rs. Stricter than the reference where the README is:
// every duplicate key is refused. No torch here.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "base/unique_handle.h"

namespace rankwise {

enum class Dtype : uint8_t {
  kF64,
  kF32,
  kF16,
  kBF16,
  kI64,
  kI32,
  kI16,
  kI8,
  kU8,
  kBool,
  kF8E4M3,
  kF8E5M2,
  kU16,
  kU32,
  kU64
};
std::string_view dtype_name(Dtype dtype);  // "F32", as in the file
int64_t dtype_bytes(Dtype dtype);          // bytes an element

struct TensorEntry {
  std::string name;
  Dtype dtype;
  std::vector<int64_t> shape;
  uint64_t begin;  // bytes from the start of the data section
  uint64_t end;
  int64_t num_elements() const;
};

struct SafetensorsHeader {
  std::vector<TensorEntry> tensors;  // sorted by begin
  std::map<std::string, std::string> metadata;
  uint64_t data_start = 0;  // bytes from the start of the file
};

// Pure: no file, no global. `prefix` holds at least the 8 length bytes and the header. Throws DataError ("place" names
// the file). Allocates nothing before its size is proven to be at most a constant times the input.
SafetensorsHeader parse_safetensors_header(std::string_view prefix, uint64_t file_bytes, std::string_view place);

// An open file. pread only, never mmap (a truncated file must not become a SIGBUS). Thread-safe.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path);  // refuses FIFOs, devices, pickle and GGUF by magic
  SafetensorsFile(int directory_fd, const std::string& name, const std::filesystem::path& shown_as);
  const SafetensorsHeader& header() const noexcept { return header_; }
  const TensorEntry& entry(std::string_view name) const;  // DataError if absent
  const TensorEntry* find(std::string_view name) const noexcept;
  // Fills `out` from byte `offset` of the tensor. IoError on a short read, DataError out of range.
  void read(const TensorEntry& entry, uint64_t offset, std::span<std::byte> out) const;
  const std::filesystem::path& path() const noexcept { return path_; }
  uint64_t bytes_read() const noexcept;  // data bytes so far, headers not counted

 private:
  void open_and_parse(InputFile file);
  std::filesystem::path path_;
  UniqueFd fd_;
  SafetensorsHeader header_;
  std::map<std::string_view, const TensorEntry*> by_name_;
  std::unique_ptr<std::atomic<uint64_t>> bytes_read_;
};

// One tensor to be written; `data` is contiguous, row-major, little-endian and stays the caller's.
struct TensorView {
  std::string name;
  Dtype dtype;
  std::vector<int64_t> shape;
  std::span<const std::byte> data;
};

// Writes the whole file durably (base/file.h) in the reference writer's order: by dtype, larger ones first, then name.
// Throws DataError for what its reader would refuse: a name twice, data that does not fit the shape.
void write_safetensors(const std::filesystem::path& path, std::vector<TensorView> tensors,
                       const std::map<std::string, std::string>& metadata);

}  // namespace rankwise
