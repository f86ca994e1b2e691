#include "launcher/local_ranks.h"

#include <unistd.h>

#include <charconv>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

namespace rankwise {
namespace {

namespace fs = std::filesystem;

bool has_rank(const fs::path& process) {
  std::ifstream file(process / "environ", std::ios::binary);
  const std::string environment((std::istreambuf_iterator<char>(file)), {});
  return ('\0' + environment).find(std::string("\0OMPI_COMM_WORLD_RANK=", 22)) != std::string::npos;
}

}  // namespace

std::vector<pid_t> local_ranks() {
  std::vector<pid_t> ranks;
  std::error_code gone;  // a process may end at any moment
  for (fs::directory_iterator entry("/proc", gone), end; entry != end; entry.increment(gone)) {
    const std::string name = entry->path().filename();
    pid_t pid = 0;
    const auto parsed = std::from_chars(name.data(), name.data() + name.size(), pid);
    if (parsed.ptr != name.data() + name.size() || pid == ::getpid()) continue;
    if (fs::equivalent(entry->path() / "exe", "/proc/self/exe", gone) && has_rank(entry->path())) ranks.push_back(pid);
  }
  return ranks;
}

}  // namespace rankwise
