#include "comms/cuda.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/check.h"
#include "base/shared_library.h"
#include "comms/cuda_device.h"
#include "comms/nccl.h"

namespace rankwise {

int num_cuda_devices() {
  static auto* const count = cuda_library_function<decltype(rankwise_num_cuda_devices)>("rankwise_num_cuda_devices");
  return count();
}

DeviceBytes device_bytes() {
  static auto* const ask = cuda_library_function<decltype(rankwise_device_bytes)>("rankwise_device_bytes");
  DeviceBytes bytes;
  ask(&bytes.free, &bytes.total);
  return bytes;
}

std::string device_uuid() {
  static auto* const ask = cuda_library_function<decltype(rankwise_device_uuid)>("rankwise_device_uuid");
  uint8_t b[16];
  ask(b);
  return fmt::format("GPU-{:02x}-{:02x}-{:02x}-{:02x}-{:02x}", fmt::join(b, b + 4, ""), fmt::join(b + 4, b + 6, ""),
                     fmt::join(b + 6, b + 8, ""), fmt::join(b + 8, b + 10, ""), fmt::join(b + 10, b + 16, ""));
}

ComputeCapability compute_capability() {
  static auto* const ask = cuda_library_function<decltype(rankwise_compute_capability)>("rankwise_compute_capability");
  ComputeCapability capability;
  ask(&capability.major, &capability.minor);
  return capability;
}

void pin_host_memory(void* data, size_t bytes) {
  static auto* const pin = cuda_library_function<decltype(rankwise_pin_host_memory)>("rankwise_pin_host_memory");
  const int code = pin(data, bytes);
  RW_CHECK(code == 0, Error,
           "{} bytes of host memory could not be pinned (error {} of the CUDA runtime); free memory of the host, raise "
           "`ulimit -l`, or do without parallel.cpu_offload: true and parallel.activations: offload",
           bytes, code);
}

void unpin_host_memory(void* data) noexcept {
  static auto* const unpin = cuda_library_function<decltype(rankwise_unpin_host_memory)>("rankwise_unpin_host_memory");
  unpin(data);
}

std::unique_ptr<Communicator> make_nccl_communicator(Communicator& control, const NcclOptions& options) {
  static auto* const make =
      cuda_library_function<decltype(rankwise_make_nccl_communicator)>("rankwise_make_nccl_communicator");
  return std::unique_ptr<Communicator>(make(&control, &options));
}

}  // namespace rankwise
