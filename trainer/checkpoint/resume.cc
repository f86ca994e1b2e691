#include "trainer/checkpoint/resume.h"

#include "base/check.h"
#include "base/error.h"
#include "base/log.h"

namespace rankwise {
namespace {

namespace fs = std::filesystem;

CheckpointInfo require_whole(const ResumeSearch& search, const fs::path& run_directory) {
  std::string found = search.damaged.empty() ? "\n  no checkpoint-<step> directory" : "";
  for (const DamagedCheckpoint& damaged : search.damaged) found += "\n  " + damaged.reason;
  RW_CHECK(search.newest.has_value(), DataError,
           "{}: checkpoint.resume is \"required\" and there is no whole checkpoint. Found:{}\nUse \"auto\" to start "
           "from step 0.",
           run_directory.string(), found);
  return *search.newest;
}

CheckpointInfo open_named(const fs::path& run_directory, const fs::path& directory) {
  CheckpointInfo info = verify_checkpoint(directory);
  const auto steps = list_checkpoint_steps(run_directory);
  RW_CHECK(
      steps.empty() || steps.back() <= info.manifest.step, DataError,
      "{}: is of step {}, and {} holds step {} already; going on from here would mix two histories. Choose another "
      "run.output_dir, or move the newer checkpoints away.",
      directory.string(), info.manifest.step, run_directory.string(), steps.back());
  return info;
}

void refuse_existing(const fs::path& run_directory) {
  const auto steps = list_checkpoint_steps(run_directory);
  RW_CHECK(steps.empty(), DataError,
           "{}: checkpoint.resume is \"never\" and there are checkpoints up to step {}. Choose another run.output_dir, "
           "or resume with \"auto\".",
           run_directory.string(), steps.back());
}

}  // namespace

ResumePolicy parse_resume_policy(std::string_view text) {
  if (text == "auto") return {ResumeMode::kAuto, {}};
  if (text == "required") return {ResumeMode::kRequired, {}};
  if (text == "never") return {ResumeMode::kNever, {}};
  RW_CHECK(!text.empty(), ConfigError,
           "checkpoint.resume: is empty; give auto, required, never or a checkpoint's path");
  return {ResumeMode::kDirectory, fs::path(text)};
}

ResumeSearch find_resumable(const fs::path& run_directory) {
  ResumeSearch search;
  const auto steps = list_checkpoint_steps(run_directory);
  for (auto step = steps.rbegin(); step != steps.rend() && !search.newest; ++step) {
    const fs::path directory = checkpoint_path(run_directory, *step);
    try {
      search.newest = verify_checkpoint(directory);
    } catch (const Error& error) {
      if (!means_damage(error)) throw;
      search.damaged.push_back({directory, error.what()});
    }
  }
  return search;
}

std::optional<CheckpointInfo> choose_checkpoint(const fs::path& run_directory, const ResumePolicy& policy) {
  if (policy.mode == ResumeMode::kDirectory) return open_named(run_directory, policy.directory);
  if (policy.mode == ResumeMode::kNever) {
    refuse_existing(run_directory);
    return std::nullopt;
  }
  ResumeSearch search = find_resumable(run_directory);
  if (policy.mode == ResumeMode::kRequired) require_whole(search, run_directory);
  for (const DamagedCheckpoint& damaged : search.damaged) log_warning("not used: {}", damaged.reason);
  return std::move(search.newest);
}

}  // namespace rankwise
