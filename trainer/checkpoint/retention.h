// Deleting old checkpoints.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "trainer/checkpoint/run_directory.h"

namespace rankwise {

// Keeps the newest `limit` checkpoints (train.save_total_limit, at least 1), besides them the one of `best_step`, and
// if all of these are damaged also the newest whole one: the last whole checkpoint is never deleted. To be sure of
// that it reads the newest one again. A kill at any moment leaves whole checkpoints or tmp directories, nothing
// between. Returns the steps deleted; what cannot be deleted is a warning, for the training itself is well.
std::vector<uint64_t> prune_checkpoints(const RunDirectory& run, uint64_t limit, std::optional<uint64_t> best_step);

}  // namespace rankwise
