// FAILED_PERMANENT in a run's output directory: why starting the same run again cannot help. Whoever restarts jobs on
// its own (a Kubernetes Job, a batch system) then gets the same answer at once, and not after minutes of loading.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

namespace rankwise {

struct PermanentFailure {
  int code = 0;             // exit code of the run: 64, 65, 66, 77 or 78
  std::string error;        // the last thing that it said
  std::string fingerprint;  // of what was started: configuration and command line
};

bool is_permanent(int exit_code);

// Replaces the marker. The directory is there: the run made it, or could not, and then this throws as replace_file.
void mark_permanent_failure(const std::filesystem::path& output_dir, const PermanentFailure& failure);

// The marker of a run with this fingerprint. One of another run is removed, as is one that cannot be read.
std::optional<PermanentFailure> find_permanent_failure(const std::filesystem::path& output_dir,
                                                       const std::string& fingerprint);

std::filesystem::path permanent_failure_path(const std::filesystem::path& output_dir);

}  // namespace rankwise
