// Private to comms/: the MPI transport.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "comms/communicator.h"

namespace rankwise {

// Throws CommError with MPI's own text unless code is MPI_SUCCESS.
void mpi_check(int code, std::string_view operation);

// Collective: duplicates MPI_COMM_WORLD. The observer may be null and is not owned. An operation that nobody waits for
// leaves its tensors in `abandoned`, which has to live as long as MPI does: MPI may read and write them until then.
std::unique_ptr<Communicator> make_mpi_communicator(CommObserver* observer,
                                                    std::shared_ptr<std::vector<at::Tensor>> abandoned);

}  // namespace rankwise
