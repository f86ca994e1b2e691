// The name of this machine, as gethostname() has it: a pod's own name in Kubernetes.
#pragma once

#include <string>

namespace rankwise {

std::string host_name();  // "unknown" where the system names none

}  // namespace rankwise
