// Private to comms/: parts of tensors that GPUs of one host read from each other's memory (CUDA IPC).
#pragma once

#include <memory>
#include <vector>

#include "comms/communicator.h"

namespace rankwise {

// Collective over `group`, whose tensors lie on CUDA devices. Null on every rank where some rank cannot map the memory
// of another: they are on different hosts, in one process, or their devices have no way to each other. Received bytes
// are added to `stats`.
std::unique_ptr<SharedParts> make_peer_parts(Communicator& group, std::vector<at::Tensor> parts, CommStats& stats);

}  // namespace rankwise
