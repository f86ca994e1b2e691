// Where the frozen base comes from: a model's files, or a generator for measurements.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace at {
class Tensor;
}

namespace rankwise {

class WeightSource {
 public:
  virtual ~WeightSource() = default;
  // Throws DataError where it is absent or of another shape.
  virtual void require(const std::string& name, const std::vector<int64_t>& shape) const = 0;

  // Elements [begin, begin + out.numel()) of the tensor, counted over its rows, into `out`: flat, contiguous, on any
  // device. Both ends lie on 4 KiB leaves of the file, or at the tensor's end. `counted`: whether this rank's
  // fingerprint has these leaves.
  virtual void load(const std::string& name, int64_t begin, at::Tensor out, bool counted) = 0;

  // Of what was loaded so far. Waits for a device that is still at it.
  virtual uint64_t fingerprint() const = 0;
  virtual int64_t nonfinite_tensors() const = 0;  // with a NaN or Inf
};

// Normal with deviation 0.02, a function of (seed, name, begin), norm weights 1: for models that exist as a shape
// alone.
class RandomWeights final : public WeightSource {
 public:
  explicit RandomWeights(uint64_t seed) : seed_(seed) {}
  void require(const std::string&, const std::vector<int64_t>&) const override {}
  void load(const std::string& name, int64_t begin, at::Tensor out, bool counted) override;
  uint64_t fingerprint() const override { return seed_; }
  int64_t nonfinite_tensors() const override { return 0; }

 private:
  uint64_t seed_;
};

}  // namespace rankwise
