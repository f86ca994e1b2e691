// Private to comms/: how librankwise_cuda.so makes an NCCL communicator, by its C name. See comms/cuda.h for what it
// does and throws.
#pragma once

#include "comms/cuda.h"

extern "C" {
rankwise::Communicator* rankwise_make_nccl_communicator(rankwise::Communicator* control,
                                                        const rankwise::NcclOptions* options);
}
