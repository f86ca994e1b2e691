// The mpirun line that `rankwise launch` runs. Pure, but for reading the hostfile: what is started can be printed and
// tested. Open MPI 4 and 5 name their parameters differently, and each ignores the other's without a word.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace rankwise {

struct Host {
  std::string name;
  int slots = 1;
};

// Open MPI's form: "name slots=N" a line, # begins a comment, other words are mpirun's own business. Throws
// NoInputError, and DataError with the line for a slots that is no number from 1, or a file without hosts.
std::vector<Host> read_hostfile(const std::filesystem::path& path);

struct MpirunLine {
  int open_mpi = 4;  // major version
  int ranks = 1;
  std::filesystem::path hostfile = {};  // empty: this host alone
  int ssh_port = 0;                     // of its hosts; 0: as ssh itself finds it
  bool as_root = false;
  std::vector<std::string> environment = {};  // names of variables that ranks on other hosts get, too
  std::vector<std::string> program = {};      // what every rank runs
};

std::vector<std::string> mpirun_command(const MpirunLine& line);

// 4 of "mpirun (Open MPI) 4.1.4". Throws UnavailableError for another MPI.
int open_mpi_major(std::string_view version_text);

// Names in `environment` ("NAME=value" each) that ranks on other hosts need: of Rankwise, NCCL, CUDA, OpenMP, UCX and
// libfabric, and a few by their whole name. Never a value: those would stand in every list of processes. Not NVIDIA_*:
// the MPI operator empties them in its launcher, which has no GPU; handed on, they would hide the workers' GPUs.
std::vector<std::string> forwarded_variables(const std::vector<std::string_view>& environment);

// As one would type it.
std::string shell_text(const std::vector<std::string>& command);

}  // namespace rankwise
