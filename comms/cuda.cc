#include "comms/cuda.h"

#include "base/shared_library.h"
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

std::unique_ptr<Communicator> make_nccl_communicator(Communicator& control, const NcclOptions& options) {
  static auto* const make =
      cuda_library_function<decltype(rankwise_make_nccl_communicator)>("rankwise_make_nccl_communicator");
  return std::unique_ptr<Communicator>(make(&control, &options));
}

}  // namespace rankwise
