// Which algorithm of cuBLASLt multiplies a shape fastest: measured once, kept in memory and in a file, so that a second
// start measures nothing. Without CUDA; one thread at a time.
//
// The file is JSON, one for each kind of device and version of cuBLASLt:
//   {"format": 1, "gpu": "NVIDIA H100 80GB HBM3, 132 multiprocessors", "cublaslt": 130100,
//    "algorithms": {"8192x4096x14336 bf16 ...": "<words of a GemmAlgorithm, 128 hexadecimal digits>"}, "xxh3": "..."}
// Processes may share it: each adds to what it finds there, the last one that writes an entry wins, and what is read is
// always whole. Where that costs an entry of another, it is measured once more.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "trainer/kernels/gemm_shape.h"

namespace rankwise {

class GemmCache {
 public:
  // In memory alone.
  GemmCache() = default;
  // Reads the file of this device in `directory`, if there is one. One that is broken or of another device is as none,
  // with a warning, and is replaced by keep().
  GemmCache(const std::filesystem::path& directory, const GemmDevice& device);

  const std::filesystem::path& file() const { return file_; }  // empty: in memory alone

  // What is known of a shape; null: nothing. Without a value: no algorithm can run it.
  using Choice = std::optional<GemmAlgorithm>;
  const Choice* find(const GemmShape& shape) const;
  // What the file had to say when it was read.
  Choice stored(const GemmShape& shape) const;

  void remember(const GemmShape& shape, const Choice& choice);  // in memory
  // In the file too, with its directory. Where that cannot be, a warning, and no more is written.
  void keep(const GemmShape& shape, const GemmAlgorithm& algorithm);

 private:
  using Texts = std::map<std::string, std::string>;  // by name of a shape: digits
  Texts read() const;
  void write() const;

  std::filesystem::path file_;
  std::string gpu_;
  uint64_t version_ = 0;
  Texts stored_;
  std::map<GemmShape, Choice> choices_;
};

// The place of the best median, each span being the times of one candidate; of the first unless another is more than 1
// % faster. nullopt: none has a finite one. No candidates: nullopt.
std::optional<size_t> fastest(std::span<const std::vector<float>> times);

}  // namespace rankwise
