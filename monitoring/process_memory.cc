#include "monitoring/process_memory.h"

#include <fstream>
#include <limits>
#include <string>

namespace rankwise {

ProcessMemory process_memory() {
  ProcessMemory memory;
  std::ifstream status("/proc/self/status");
  for (std::string key; status >> key; status.ignore(std::numeric_limits<std::streamsize>::max(), '\n')) {
    int64_t* bytes = key == "VmRSS:" ? &memory.resident_bytes : key == "VmHWM:" ? &memory.peak_resident_bytes : nullptr;
    if (bytes != nullptr && status >> *bytes) *bytes *= 1024;  // the kernel writes "1234 kB"
  }
  return memory;
}

}  // namespace rankwise
