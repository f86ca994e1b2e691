// Are all hosts of a job there? Where Kubernetes starts the launcher beside its workers (a job that comes out of a
// queue), nobody else has waited for them, and mpirun gives up at the first that does not answer.
#pragma once

#include <chrono>
#include <functional>
#include <vector>

#include "launcher/mpirun_line.h"

namespace rankwise {

// Until every host has a name that resolves and takes a TCP connection on `port`; this host and localhost are there.
// `pause` waits a moment between two rounds; false: give up quietly. Returns whether all are there. Throws
// UnavailableError, naming each that is not and why, after `limit`. Says on the log whom it waits for.
bool wait_for_hosts(const std::vector<Host>& hosts, int port, std::chrono::milliseconds limit,
                    const std::function<bool(std::chrono::milliseconds)>& pause);

}  // namespace rankwise
