#include "trainer/checkpoint/checkpoint.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <optional>

#include "base/check.h"
#include "base/error.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"

namespace rankwise {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMaxManifestBytes = 16ull << 20;

void make_directory(const fs::path& directory) {
  std::error_code error;
  fs::create_directory(directory, error);
  if (error) throw_errno(fmt::format("create {}", directory.string()), error.value());
}

// The tmp directory of one save. Gone when the scope ends, unless it was published.
class Attempt {
 public:
  explicit Attempt(fs::path directory) : directory_(std::move(directory)) { make_directory(directory_); }
  Attempt(const Attempt&) = delete;
  Attempt& operator=(const Attempt&) = delete;
  ~Attempt() {
    std::error_code ignored;  // the next save or start tries again
    if (!published_) fs::remove_all(directory_, ignored);
  }

  const fs::path& directory() const noexcept { return directory_; }

  void publish(const fs::path& target) {
    try {
      publish_directory(directory_, target);
    } catch (...) {
      // The rename may have happened and its fsync failed: a checkpoint that a power cut could undo is no checkpoint.
      std::error_code error;
      if (!fs::exists(directory_, error) && !error) fs::rename(target, directory_, error);
      throw;
    }
    published_ = true;
  }

 private:
  fs::path directory_;
  bool published_ = false;
};

struct Tree {
  std::vector<fs::path> files;
  std::vector<fs::path> directories;  // innermost first, the root last
};

Tree list_tree(const fs::path& root) {
  Tree tree;
  std::error_code error;
  for (fs::recursive_directory_iterator entry(root, error), end; !error && entry != end; entry.increment(error)) {
    const fs::file_status status = entry->symlink_status(error);
    RW_CHECK(fs::is_regular_file(status) || fs::is_directory(status), Error,
             "{}: neither a file nor a directory; a checkpoint holds nothing else", entry->path().string());
    (fs::is_directory(status) ? tree.directories : tree.files).push_back(entry->path());
  }
  if (error) throw_errno(fmt::format("list {}", root.string()), error.value());
  std::ranges::sort(tree.directories, std::ranges::greater{});
  tree.directories.push_back(root);
  return tree;
}

ManifestFile sync_and_hash(const fs::path& root, const fs::path& file) {
  const InputFile input = open_input(file);
  if (::fsync(input.fd.get()) != 0) throw_errno(fmt::format("fsync {}", file.string()), errno);
  ManifestFile entry{
      .path = file.lexically_relative(root).string(), .bytes = input.size_bytes, .sha256 = sha256_hex_of_file(file)};
  RW_CHECK(is_manifest_path(entry.path), Error, "{}: \"{}\" cannot be named in a manifest", root.string(), entry.path);
  return entry;
}

// Everything below `root` is on the disk when it returns, with the manifest as the last file.
Manifest seal(const fs::path& root, Manifest manifest) {
  const Tree tree = list_tree(root);
  for (const fs::path& file : tree.files) manifest.files.push_back(sync_and_hash(root, file));
  std::ranges::sort(manifest.files, {}, &ManifestFile::path);
  write_new_file(root / kManifestName, manifest_to_json(manifest));
  for (const fs::path& directory : tree.directories) fsync_directory(directory);
  return manifest;
}

bool is_there(const fs::path& path) {
  std::error_code error;
  return fs::exists(fs::symlink_status(path, error));
}

void set_aside(const fs::path& damaged) {
  fs::path target = damaged.string() + ".damaged";
  for (int n = 2; is_there(target); ++n) target = fmt::format("{}.damaged.{}", damaged.string(), n);
  log_warning("{} is damaged; keeping it as {}", damaged.string(), target.filename().string());
  publish_directory(damaged, target);
}

// The whole checkpoint that already stands at `target`, if any; a damaged one is moved out of the way.
std::optional<CheckpointInfo> existing_checkpoint(const fs::path& target, const Fingerprint& fingerprint) {
  if (!is_there(target)) return std::nullopt;
  std::optional<CheckpointInfo> existing;
  try {
    existing = verify_checkpoint(target);
  } catch (const Error& error) {
    if (!means_damage(error)) throw;
    log_warning("{}", error.what());
    set_aside(target);
    return std::nullopt;
  }
  for (const FieldDifference& difference : fingerprint_differences(existing->manifest.fingerprint, fingerprint)) {
    RW_CHECK(difference.rule != FieldRule::kMustMatch, DataError,
             "{}: is there already, from another run: {}. Choose another run.output_dir.", target.string(),
             describe(difference));
  }
  fsync_directory(target.parent_path());  // whoever published it may have died, or failed, just before that
  return existing;
}

uint64_t total_bytes(const Manifest& manifest) {
  uint64_t total = 0;
  for (const ManifestFile& file : manifest.files) total += file.bytes;
  return total;
}

// Only a warning: the save that would just fit must not be given up.
void warn_if_disk_is_nearly_full(const fs::path& directory, uint64_t checkpoint_bytes) {
  std::error_code error;
  const fs::space_info space = fs::space(directory, error);
  if (error || space.available / 2 >= checkpoint_bytes) return;
  log_warning("{}: {} bytes are free and a checkpoint takes {}; free some space or lower train.save_total_limit",
              directory.string(), space.available, checkpoint_bytes);
}

void verify_file(const fs::path& directory, const ManifestFile& expected) {
  const fs::path path = directory / expected.path;
  std::error_code error;
  RW_CHECK(fs::is_regular_file(fs::symlink_status(path, error)), DataError, "{}: missing, or no regular file",
           path.string());
  const uint64_t bytes = open_input(path).size_bytes;
  RW_CHECK(bytes == expected.bytes, DataError, "{}: {} bytes, the manifest says {}", path.string(), bytes,
           expected.bytes);
  const std::string sha256 = sha256_hex_of_file(path);
  RW_CHECK(sha256 == expected.sha256, DataError, "{}: damaged: SHA-256 is {}, the manifest says {}", path.string(),
           sha256, expected.sha256);
}

}  // namespace

CheckpointInfo save_checkpoint(const RunDirectory& run, uint64_t step, const Fingerprint& fingerprint,
                               const CheckpointWriter& write_files) {
  const fs::path target = checkpoint_path(run.path(), step);
  if (auto existing = existing_checkpoint(target, fingerprint)) return *std::move(existing);
  run.remove_leftovers();
  Attempt attempt(run.work_path(step));
  make_directory(attempt.directory() / kTrainerStateDirectory);
  write_files(attempt.directory());
  CheckpointInfo saved{target, seal(attempt.directory(),
                                    {.run_id = run.run_id(), .step = step, .fingerprint = fingerprint, .files = {}})};
  attempt.publish(target);
  warn_if_disk_is_nearly_full(run.path(), total_bytes(saved.manifest));
  return saved;
}

CheckpointInfo verify_checkpoint(const fs::path& directory) {
  const fs::path path = directory / kManifestName;
  Manifest manifest = manifest_from_json(read_file(path, kMaxManifestBytes), path.string());
  const auto named_step = step_of_checkpoint_name(directory.filename().string());
  RW_CHECK(!named_step || *named_step == manifest.step, DataError, "{}: is of step {}, the directory's name says {}",
           path.string(), manifest.step, *named_step);
  for (const ManifestFile& file : manifest.files) verify_file(directory, file);
  return {directory, std::move(manifest)};
}

bool means_damage(const Error& error) noexcept {
  const ExitCode code = error.code();
  return code == ExitCode::kBadData || code == ExitCode::kNoInput || code == ExitCode::kIo;
}

}  // namespace rankwise
