// Live and peak bytes of tensors by what they are for. On CPUs by an allocator that counts, installed in LibTorch's
// place: allocation is LibTorch's own (posix_memalign, 64 bytes); the counting is ours, and that memory stays with the
// process. On a device by the counters of LibTorch's caching allocator.
#pragma once

#include <c10/core/Device.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

namespace rankwise {

enum class TensorKind : uint8_t {
  kBaseShard,    // this rank's part of the frozen base, and the replicated norms and biases
  kGathered,     // gathered units: ring, ends and resident
  kAdapter,      // LoRA parameters (masters and compute copies)
  kGradients,    // the flat bucket
  kOptimizer,    // moments
  kActivations,  // everything else
};
inline constexpr int kNumTensorKinds = 6;
std::string_view tensor_kind_name(TensorKind kind);  // "base_shard", ... : the metrics' label values

struct TensorMemory {
  std::array<int64_t, kNumTensorKinds> live_bytes{};
  std::array<int64_t, kNumTensorKinds> peak_bytes{};
  int64_t live_total = 0;
  int64_t peak_total = 0;  // of the sum at one moment: at most the sum of the peaks
  // Of a device's caching allocator; zero on CPUs, where nothing is kept beside the live tensors.
  int64_t reserved_bytes = 0, peak_reserved_bytes = 0;
  int64_t num_retries = 0;  // times that it gave back what it kept and asked the driver again
};

void install_tensor_memory();  // once, before the first tensor; later tensors are counted
// From now on the figures are those of this device's tensors. A kind has what was allocated and kept while a
// TensorScope of it was the innermost; what is left of the total are activations.
void count_device_memory(c10::Device device);
TensorMemory tensor_memory();        // thread-safe
c10::Device tensor_memory_device();  // whose figures they are
void reset_tensor_memory_peaks();    // peaks := live
void release_cached_memory();        // what the device's allocator keeps beside live tensors; waits for the device

// Where an exception left TensorScopes of this thread: the kind of the innermost, until the next scope begins. Empty:
// it left none. So whoever caught a failed allocation knows what it was for.
std::optional<TensorKind> kind_left_by_exception();

// Tensors allocated by this thread while it lives are of `kind`. Without one they are activations.
class TensorScope {
 public:
  explicit TensorScope(TensorKind kind);
  ~TensorScope();
  TensorScope(const TensorScope&) = delete;
  TensorScope& operator=(const TensorScope&) = delete;

 private:
  TensorKind outer_;
  int exceptions_before_;
  int64_t unkept_before_ = 0;
};

}  // namespace rankwise
