// The frozen base never changes, so whether its bytes do is a question with an exact answer: a slice of what this rank
// holds is summed at each step and compared, where it lies, with its sum at the start. One thread; the base outlives
// this.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <vector>

namespace rankwise {

class BaseCheck {
 public:
  // `held`: contiguous tensors, in host memory or on a device; sums all of them. A look takes 16 MiB, where all is on a
  // device at least a 256th of all.
  explicit BaseCheck(const std::vector<at::Tensor>& held);
  void look();  // at the next slices; does not wait for a device
  void look_at_all();
  int64_t changed();  // slices that were not what they were, so far; waits for a device

 private:
  struct Slice {
    at::Tensor bytes;
    int64_t sum;
  };
  void add_slices(const at::Tensor& tensor);
  int64_t look_at_next();  // returns its bytes

  int64_t look_bytes_;
  std::vector<Slice> slices_;
  size_t next_ = 0;
  std::map<c10::DeviceType, at::Tensor> changed_;
};

}  // namespace rankwise
