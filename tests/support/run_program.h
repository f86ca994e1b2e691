// Runs a command line as a shell would and keeps what it left.
#pragma once

#include <sys/wait.h>

#include <array>
#include <chrono>
#include <cstdio>
#include <string>

namespace rankwise::testing {

struct ProgramEnd {
  int exit_code = -1;  // -1: ended by a signal
  std::string output;  // of both streams
  double seconds = 0;
};

inline ProgramEnd run_program(const std::string& command) {
  ProgramEnd end;
  const auto start = std::chrono::steady_clock::now();
  std::FILE* pipe = ::popen((command + " 2>&1").c_str(), "r");
  if (pipe == nullptr) return end;
  std::array<char, 4096> part;
  while (const size_t bytes = std::fread(part.data(), 1, part.size(), pipe)) end.output.append(part.data(), bytes);
  const int status = ::pclose(pipe);
  if (WIFEXITED(status)) end.exit_code = WEXITSTATUS(status);
  end.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return end;
}

}  // namespace rankwise::testing
