// Which checkpoint a run continues from. There is no `latest` file: the newest directory that is whole is the latest.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "trainer/checkpoint/checkpoint.h"

namespace rankwise {

enum class ResumeMode {
  kAuto,       // the newest whole checkpoint, or from the start if there is none
  kRequired,   // the newest whole checkpoint, or an error
  kNever,      // from the start; an error if the run directory holds checkpoints
  kDirectory,  // this checkpoint, or an error
};

struct ResumePolicy {
  ResumeMode mode = ResumeMode::kAuto;
  std::filesystem::path directory;  // of kDirectory
};

// "auto", "required", "never", or the path of a checkpoint (checkpoint.resume).
ResumePolicy parse_resume_policy(std::string_view text);

struct DamagedCheckpoint {
  std::filesystem::path directory;
  std::string reason;  // names the file
};

struct ResumeSearch {
  std::optional<CheckpointInfo> newest;    // the newest whole one
  std::vector<DamagedCheckpoint> damaged;  // those newer than it, newest first
};

// Reads no further than the newest whole checkpoint; changes nothing; needs no lock. A checkpoint that may not be read
// is an error (code 77), not a damaged one.
ResumeSearch find_resumable(const std::filesystem::path& run_directory);

// Applies the policy; nullopt: train from the start. Warns about each damaged checkpoint that it steps over.
// One run directory holds one history, hence DataError for kNever where there are checkpoints, and for kDirectory
// where the run directory holds a newer checkpoint than the one named: a later `auto` would mix the two.
// kRequired with nothing whole is a DataError that says what was found.
std::optional<CheckpointInfo> choose_checkpoint(const std::filesystem::path& run_directory, const ResumePolicy& policy);

}  // namespace rankwise
