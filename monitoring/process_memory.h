// What the kernel counts as this process's memory (Linux, /proc/self/status).
#pragma once

#include <cstdint>

namespace rankwise {

struct ProcessMemory {
  int64_t resident_bytes = 0;       // VmRSS
  int64_t peak_resident_bytes = 0;  // VmHWM
};

// Zeros where /proc is not mounted.
ProcessMemory process_memory();

}  // namespace rankwise
