// CUDA devices and the NCCL transport between them. Both live in librankwise_cuda.so, which is loaded by the first call
// here: linked to LibTorch's CUDA libraries, every start of the program would cost 235 MB and half a second more.
// Call before the first tensor on a device is made.
#pragma once

#include <chrono>
#include <compare>
#include <cstdint>
#include <memory>
#include <string>

#include "comms/communicator.h"

namespace rankwise {

// Devices that this process sees; 0 without a driver.
// Throws UnavailableError (69) where this build has no CUDA part, or its libraries are not there.
int num_cuda_devices();

// Of the device that this thread is bound to, as the driver counts.
struct DeviceBytes {
  int64_t free = 0, total = 0;
};
DeviceBytes device_bytes();
std::string
device_uuid();  // of the same device: "GPU-9d2c8c0e-...", as nvidia-smi and DCGM show it; not of MIG instances

// What the same device can do, as NVIDIA counts: 9.0 of an H100.
struct ComputeCapability {
  int major = 0, minor = 0;
  auto operator<=>(const ComputeCapability&) const = default;
};
ComputeCapability compute_capability();

// Pins pages of host memory, so that a device's copy engine reads them beside its other work. Throws Error where the
// system does not let this process pin so much (ulimit -l). unpin: before the memory is freed.
void pin_host_memory(void* data, size_t bytes);
void unpin_host_memory(void* data) noexcept;

struct NcclOptions {
  int local_rank = 0;                          // picks the device
  int local_size = 1;                          // ranks of this host
  std::chrono::milliseconds timeout{600'000};  // of forming, splitting, parting, and of one operation
  CommObserver* observer = nullptr;            // may be null, not owned
  bool peer_copies = true;                     // share(): read the other devices' memory where that is possible
};

// Collective over `control` (a CPU communicator of the same ranks, used for the introduction alone). Binds the calling
// thread to device `local_rank`. Throws UnavailableError where the host has fewer devices than ranks, before anything
// is sent; CommError where the ranks do not meet within the timeout. NVLink multicast stays off unless the user set
// NCCL_NVLS_ENABLE: its sums differ from call to call. NCCL_ALGO and NCCL_PROTO pin the order of the others'.
std::unique_ptr<Communicator> make_nccl_communicator(Communicator& control, const NcclOptions& options);

}  // namespace rankwise
