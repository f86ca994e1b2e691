// Private to comms/: what librankwise_cuda.so offers, by C names. See comms/cuda.h for what they do and throw.
#pragma once

#include "comms/cuda.h"

extern "C" {
int rankwise_num_cuda_devices();
void rankwise_device_bytes(int64_t* free, int64_t* total);
int rankwise_pin_host_memory(void* data, size_t bytes);  // both return a cudaError_t
int rankwise_unpin_host_memory(void* data);
rankwise::Communicator* rankwise_make_nccl_communicator(rankwise::Communicator* control,
                                                        const rankwise::NcclOptions* options);
}
