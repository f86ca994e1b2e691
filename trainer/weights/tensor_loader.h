// Reads ranges of a model's tensors into memory of another dtype, and looks at every byte on the way: for the
// fingerprint of the base, and for values that are not finite. One thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "trainer/weights/model_files.h"

namespace at {
class Tensor;
}

namespace rankwise {

class TensorLoader {
 public:
  explicit TensorLoader(const ModelFiles& files);  // outlives the loader

  // Elements [begin, begin + out.numel()) of the tensor, counted over its rows, into `out`: flat, contiguous. Both ends
  // lie on 4 KiB leaves of the file, or at the tensor's end. `counted`: whether this rank's fingerprint has these
  // leaves. Throws DataError for a dtype that is no float, IoError.
  void load(const std::string& name, int64_t begin, at::Tensor out, bool counted);

  // 64-bit hashes of the counted 4 KiB leaves, each keyed by tensor and place, summed mod 2^64.
  uint64_t fingerprint() const noexcept { return fingerprint_; }
  int64_t nonfinite_tensors() const noexcept { return nonfinite_; }  // of those loaded, with a NaN or Inf

 private:
  const ModelFiles& files_;
  std::vector<std::byte> chunk_;  // one for all tensors: between the shards, others would leave holes
  uint64_t fingerprint_ = 0;
  int64_t nonfinite_ = 0;
};

}  // namespace rankwise
