// Ranks of this program that run here, found in /proc: whom a worker's sshd started knows nobody but mpirun, which is
// on another host.
#pragma once

#include <sys/types.h>

#include <vector>

namespace rankwise {

// Processes of this very file that have a rank from Open MPI, without this one. Those of other users are not seen.
std::vector<pid_t> local_ranks();

}  // namespace rankwise
