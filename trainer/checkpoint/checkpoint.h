// Saving a checkpoint so that a kill, a full disk or a power cut at any moment leaves the earlier ones as they were,
// and proving that one is whole before anything of it is used.
//   checkpoint-<step>/
//     adapter_model.safetensors, adapter_config.json, README.md     the adapter; loads in PEFT as it is
//     trainer_state/{state.json, optimizer.safetensors}             what continuing needs; nothing is keyed by rank
//     MANIFEST.json                                                 sizes and hashes of all of these, and what they fit
// A save is: write below tmp.<step>.<pid>/, fsync each file, hash it, write the manifest, fsync each directory, rename,
// fsync the run directory. A name is never reused: what stands under checkpoint-<step> never changes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>

#include "base/error.h"
#include "trainer/checkpoint/fingerprint.h"
#include "trainer/checkpoint/manifest.h"
#include "trainer/checkpoint/run_directory.h"

namespace rankwise {

inline constexpr std::string_view kTrainerStateDirectory = "trainer_state";

// A checkpoint that was seen whole: each file has the size and the hash of the manifest.
struct CheckpointInfo {
  std::filesystem::path directory;
  Manifest manifest;
};

// Writes the files of a checkpoint into `directory`, where trainer_state/ exists already. Regular files and directories
// only. May throw anything; it need not fsync.
using CheckpointWriter = std::function<void(const std::filesystem::path& directory)>;

// Publishes checkpoint-<step>; when it returns, the checkpoint survives a power cut. One save at a time, any thread.
// If checkpoint-<step> is there already:
//   whole, and no kMustMatch field differs   it is returned as it is and `write_files` is not called (a stop right
//   after
//                                            a regular save, or before the first step after a resume)
//   whole, but of another run                DataError
//   damaged                                  it is renamed to checkpoint-<step>.damaged and the save goes on
// Throws what the writer throws, or an Error with the path; then nothing of the attempt is left. Where the disk refuses
// even the clean-up, there may be a tmp directory, which the next save or start removes, or, if only the last fsync
// failed, the whole checkpoint.
CheckpointInfo save_checkpoint(const RunDirectory& run, uint64_t step, const Fingerprint& fingerprint,
                               const CheckpointWriter& write_files);

// Reads every byte of the checkpoint. Throws NoInputError if there is none, DataError naming the file that is missing,
// cut, changed or no regular file, with what was expected and found. Files that the manifest does not name are ignored.
CheckpointInfo verify_checkpoint(const std::filesystem::path& directory);

// True if an error of verify_checkpoint means that the checkpoint is damaged, and an older one may serve; false if it
// only could not be looked at (no permission, no memory).
bool means_damage(const Error& error) noexcept;

}  // namespace rankwise
