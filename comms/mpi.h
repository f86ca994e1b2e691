// Private to comms/: the MPI transport.
#pragma once

#include <memory>
#include <string_view>

#include "comms/communicator.h"

namespace rankwise {

// Throws CommError with MPI's own text unless code is MPI_SUCCESS.
void mpi_check(int code, std::string_view operation);

// Collective: duplicates MPI_COMM_WORLD. The observer may be null and is not owned.
std::unique_ptr<Communicator> make_mpi_communicator(CommObserver* observer);

}  // namespace rankwise
