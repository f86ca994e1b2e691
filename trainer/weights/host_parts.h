// Shards of the base that lie in pinned host memory and come to a CUDA device when they are gathered: for models larger
// than the devices.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <vector>

#include "comms/communicator.h"

namespace rankwise {

// Pinned host memory, not set; Error where the system does not give it. Free it when no copy needs it any more.
at::Tensor pinned_empty(at::IntArrayRef shape, at::ScalarType dtype);

// The same values in pinned host memory. Waits for the device.
at::Tensor pinned_copy(const at::Tensor& on_device);

// As Communicator::share, of pinned tensors: this rank's part goes over the bus into its place in `whole`, on a stream
// of its own beside the device's work, and from there to the others of the group. A group of one only copies.
std::unique_ptr<SharedParts> share_from_host(Communicator& group, std::vector<at::Tensor> parts, c10::Device device);

}  // namespace rankwise
