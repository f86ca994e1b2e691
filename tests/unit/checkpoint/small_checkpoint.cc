#include "small_checkpoint.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <iterator>

#include "base/file.h"

namespace rankwise::testing {

namespace fs = std::filesystem;

// The tests sync thousands of times: seconds in memory, minutes on a disk. Set TMPDIR to have them on that disk.
[[maybe_unused]] const bool kInMemory = fs::is_directory("/dev/shm") && ::setenv("TMPDIR", "/dev/shm", 0) == 0;

const std::vector<std::string>& small_files() {
  static const std::vector<std::string> kFiles = {"adapter_config.json", "adapter_model.safetensors",
                                                  "trainer_state/optimizer.safetensors", "trainer_state/state.json"};
  return kFiles;
}

std::string content_of(const std::string& file, uint64_t step) {
  std::string content;
  for (int line = 0; line < 40; ++line) content += file + " of step " + std::to_string(step) + "\n";
  return content;
}

Fingerprint small_fingerprint() {
  return {{"base", "a1b2", FieldRule::kMustMatch},
          {"lora.r", "16", FieldRule::kMustMatch},
          {"data", "c3d4", FieldRule::kMayChange},
          {"world_size", "2", FieldRule::kInformative}};
}

void write_carelessly(const fs::path& path, const std::string& content) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) throw_errno("create " + path.string(), errno);
  const ssize_t written = ::write(fd, content.data(), content.size());
  const int error = errno;
  ::close(fd);
  if (written < 0) throw_errno("write " + path.string(), error);
  if (written != static_cast<ssize_t>(content.size())) throw IoError("short write to " + path.string());
}

void write_small_files(const fs::path& directory, uint64_t step) {
  for (const std::string& file : small_files()) {
    if (file == "adapter_config.json") {
      write_carelessly(directory / file, content_of(file, step));
    } else {
      write_new_file(directory / file, content_of(file, step));
    }
  }
}

CheckpointInfo save_small(const RunDirectory& run, uint64_t step) {
  return save_checkpoint(run, step, small_fingerprint(),
                         [step](const fs::path& directory) { write_small_files(directory, step); });
}

bool is_of_one_step(const CheckpointInfo& checkpoint) {
  return std::ranges::all_of(small_files(), [&](const std::string& file) {
    return read_all(checkpoint.directory / file) == content_of(file, checkpoint.manifest.step);
  });
}

std::string read_all(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::vector<std::string> names_in(const fs::path& directory) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(directory)) names.push_back(entry.path().filename().string());
  std::ranges::sort(names);
  return names;
}

}  // namespace rankwise::testing
