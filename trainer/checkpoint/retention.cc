#include "trainer/checkpoint/retention.h"

#include <algorithm>
#include <filesystem>
#include <set>

#include "base/check.h"
#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "trainer/checkpoint/checkpoint.h"

namespace rankwise {
namespace {

namespace fs = std::filesystem;

bool is_whole(const fs::path& checkpoint) {
  try {
    verify_checkpoint(checkpoint);
    return true;
  } catch (const Error& error) {
    if (!means_damage(error)) throw;
    log_warning("{}", error.what());
    return false;
  }
}

std::set<uint64_t> steps_to_keep(const std::vector<uint64_t>& newest_first, uint64_t limit,
                                 std::optional<uint64_t> best_step, const fs::path& run_directory) {
  std::set<uint64_t> keep;
  bool whole_one_kept = false;
  for (const uint64_t step : newest_first) {
    const bool wanted = keep.size() < limit;
    if (whole_one_kept && !wanted) break;
    if (!whole_one_kept) whole_one_kept = is_whole(checkpoint_path(run_directory, step));
    if (wanted || whole_one_kept) keep.insert(step);
  }
  if (best_step) keep.insert(*best_step);
  return keep;
}

// Renamed first, so that a checkpoint name never stands for half a checkpoint, not even after a power cut.
bool remove_checkpoint(const RunDirectory& run, uint64_t step) {
  const fs::path work = run.work_path(step);
  try {
    publish_directory(checkpoint_path(run.path(), step), work);
    fs::remove_all(work);
    return true;
  } catch (const std::exception& error) {
    log_warning("an old checkpoint was not removed: {}", error.what());
    return false;
  }
}

}  // namespace

std::vector<uint64_t> prune_checkpoints(const RunDirectory& run, uint64_t limit, std::optional<uint64_t> best_step) {
  RW_CHECK(limit >= 1, Error, "asked to keep {} checkpoints, at least 1 is kept", limit);
  std::vector<uint64_t> steps = list_checkpoint_steps(run.path());
  if (steps.size() <= limit) return {};
  std::ranges::reverse(steps);
  const std::set<uint64_t> keep = steps_to_keep(steps, limit, best_step, run.path());
  std::vector<uint64_t> removed;
  for (const uint64_t step : steps) {
    if (!keep.contains(step) && remove_checkpoint(run, step)) removed.push_back(step);
  }
  return removed;
}

}  // namespace rankwise
