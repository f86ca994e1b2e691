// Reads ranges of a model's tensors into memory of another dtype, and looks at every byte on the way: for the
// fingerprint of the base, and for values that are not finite. On a CUDA device, reading and hashing go beside copying
// and converting, and in several threads. Called from one thread.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "trainer/weights/model_files.h"
#include "trainer/weights/weight_source.h"

namespace rankwise {

class TensorLoader final : public WeightSource {
 public:
  explicit TensorLoader(const ModelFiles& files);  // outlives the loader
  ~TensorLoader() override;

  void require(const std::string& name, const std::vector<int64_t>& shape) const override;
  // Throws DataError for a dtype that is no float, IoError.
  void load(const std::string& name, int64_t begin, at::Tensor out, bool counted) override;

  // 64-bit hashes of the counted 4 KiB leaves, each keyed by tensor and place, summed mod 2^64.
  uint64_t fingerprint() const override { return fingerprint_; }
  int64_t nonfinite_tensors() const override;

 private:
  struct Staging;
  struct Range {  // of a tensor's bytes in its file
    const std::string& name;
    int64_t first_byte;
    bool counted;
  };
  Staging& next_staging(at::Device target);
  // Fill `out`; return what it adds to the fingerprint.
  uint64_t read(const Range& range, std::span<std::byte> out) const;
  uint64_t read_in_parts(const Range& range, std::span<std::byte> out) const;

  const ModelFiles& files_;
  std::vector<std::unique_ptr<Staging>> staging_;  // kept: between the shards, buffers of a tensor would leave holes
  size_t next_ = 0;
  uint64_t fingerprint_ = 0;
  int64_t nonfinite_ = 0;
  at::Tensor nonfinite_there_;  // the same, of tensors on a device
};

}  // namespace rankwise
