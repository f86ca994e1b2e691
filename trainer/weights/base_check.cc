#include "trainer/weights/base_check.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "base/round_up.h"

namespace rankwise {
namespace {

constexpr int64_t kWord = 8, kLeastBytes = int64_t{16} << 20, kLooksOnDevice = 256;

// Of 64-bit words, mod 2^64: any one that changed is seen.
at::Tensor sum_of(const at::Tensor& bytes) {
  const int64_t whole = bytes.numel() / kWord * kWord;
  const at::Tensor rest = bytes.narrow(0, whole, bytes.numel() - whole);
  return bytes.narrow(0, 0, whole).view(at::kLong).sum() + rest.sum(at::kLong);
}

int64_t look_bytes_of(const std::vector<at::Tensor>& held) {
  int64_t bytes = 0;
  for (const auto& tensor : held) {
    if (tensor.is_cpu()) return kLeastBytes;
    bytes += static_cast<int64_t>(tensor.nbytes());
  }
  return std::max(kLeastBytes, round_up(bytes / kLooksOnDevice, kLeastBytes));
}

}  // namespace

BaseCheck::BaseCheck(const std::vector<at::Tensor>& held) : look_bytes_(look_bytes_of(held)) {
  for (const auto& tensor : held) add_slices(tensor);
}

void BaseCheck::add_slices(const at::Tensor& tensor) {
  const at::Tensor bytes = tensor.view({-1}).view(at::kByte);
  auto& changed = changed_[bytes.device().type()];
  if (!changed.defined()) changed = at::zeros({}, bytes.options().dtype(at::kLong));
  for (int64_t begin = 0; begin < bytes.numel(); begin += look_bytes_) {
    const at::Tensor slice = bytes.narrow(0, begin, std::min(look_bytes_, bytes.numel() - begin));
    slices_.push_back({slice, sum_of(slice).item<int64_t>()});
  }
}

void BaseCheck::look() {
  int64_t seen = 0;
  for (size_t k = 0; k < slices_.size() && seen < look_bytes_; ++k) seen += look_at_next();
}

void BaseCheck::look_at_all() {
  for (size_t k = 0; k < slices_.size(); ++k) look_at_next();
}

int64_t BaseCheck::look_at_next() {
  const auto& [bytes, sum] = slices_[next_++ % slices_.size()];
  changed_[bytes.device().type()].add_(sum_of(bytes).ne(sum));
  return bytes.numel();
}

int64_t BaseCheck::changed() {
  int64_t times = 0;
  for (const auto& [device, changed] : changed_) times += changed.item<int64_t>();
  return times;
}

}  // namespace rankwise
