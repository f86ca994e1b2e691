// A world of threads for tests: as many ranks as one likes in one process, without a launcher. What contracts hold for
// every communicator hold here too; an operation is carried out by the rank that joins it last.
#pragma once

#include <functional>

#include "comms/communicator.h"

namespace rankwise::testing {

// Runs `body` on `size` threads at once, each with its own rank, and rethrows the first failure. A rank that throws
// aborts the group, so that the others do not wait for it.
void run_ranks(int size, const std::function<void(Communicator&)>& body);

}  // namespace rankwise::testing
