// The directory that one training job writes into (run.output_dir), held under a lock for as long as the object lives.
//   LOCK                  flock'ed; says who holds it
//   checkpoint-<step>/    complete checkpoints, published by one rename
//   tmp.<step>.<pid>/     a save or a deletion that is under way, or was when its process died
// Everything else in there belongs to others and is never touched. Rank 0 holds it; the other ranks only read.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/unique_handle.h"

namespace rankwise {

class RunDirectory {
 public:
  // Creates `path` durably if it is absent, proves that it can be written, takes the lock, and removes the tmp
  // directories of dead owners. `run_id` is shown to whoever finds the directory taken, and goes into each manifest.
  // Throws IoError with code 73 naming host, pid and run of the holder if another job has the directory, at once.
  RunDirectory(const std::filesystem::path& path, std::string run_id);
  RunDirectory(const RunDirectory&) = delete;
  RunDirectory& operator=(const RunDirectory&) = delete;
  ~RunDirectory();

  const std::filesystem::path& path() const noexcept { return path_; }  // absolute
  const std::string& run_id() const noexcept { return run_id_; }
  // Where a save or deletion of `step` by this process does its work.
  std::filesystem::path work_path(uint64_t step) const;
  // Removes every tmp.<step>.<pid>. The lock makes sure that they are dead: call it only while no save is under way.
  void remove_leftovers() const;

 private:
  std::filesystem::path path_;
  std::string run_id_;
  UniqueFd lock_;
};

// run_directory / "checkpoint-<step>".
std::filesystem::path checkpoint_path(const std::filesystem::path& run_directory, uint64_t step);

// The steps of the directories that are named checkpoint-<step>, ascending; damaged ones too. Needs no lock.
// Empty if the directory is absent.
std::vector<uint64_t> list_checkpoint_steps(const std::filesystem::path& run_directory);

// 120 of "checkpoint-120"; nullopt for any other name (leading zeros included).
std::optional<uint64_t> step_of_checkpoint_name(std::string_view name);

}  // namespace rankwise
