// A toy checkpoint for the tests: four small files whose bytes are a function of the step.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/error.h"
#include "tests/support/scratch_directory.h"
#include "trainer/checkpoint/checkpoint.h"

namespace rankwise::testing {

// The files of the toy checkpoint, without the manifest.
const std::vector<std::string>& small_files();
std::string content_of(const std::string& file, uint64_t step);
Fingerprint small_fingerprint();

// Writes the files of `step`; one of them carelessly, without fsync.
void write_small_files(const std::filesystem::path& directory, uint64_t step);
CheckpointInfo save_small(const RunDirectory& run, uint64_t step);

// True if each file holds the bytes of the checkpoint's own step.
bool is_of_one_step(const CheckpointInfo& checkpoint);

void write_carelessly(const std::filesystem::path& path, const std::string& content);
std::string read_all(const std::filesystem::path& path);
std::vector<std::string> names_in(const std::filesystem::path& directory);

// The message of the Error that `action` throws; "nothing was thrown" if none.
struct Thrown {
  std::string message;
  int code = 0;
};
template <typename Action>
Thrown error_of(Action action) {
  try {
    action();
  } catch (const Error& error) {
    return {error.what(), static_cast<int>(error.code())};
  }
  return {"nothing was thrown", 0};
}

}  // namespace rankwise::testing
