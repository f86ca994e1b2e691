#include "trainer/weights/model_files.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <set>

#include "base/check.h"
#include "base/file.h"
#include "base/nearest.h"
#include "trainer/weights/model_index.h"

namespace rankwise {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view kSingleFile = "model.safetensors";
constexpr std::string_view kIndexFile = "model.safetensors.index.json";
constexpr uint64_t kMaxIndexBytes = 64 << 20;

std::vector<std::string> file_names(const fs::path& directory) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator at(directory, error), end; !error && at != end; at.increment(error)) {
    names.push_back(at->path().filename().native());
  }
  RW_CHECK(error != std::errc::no_such_file_or_directory && error != std::errc::not_a_directory, NoInputError,
           "{}: no such directory; model.path names the directory of a Hugging Face model", directory.native());
  if (error) throw_errno("list " + directory.native(), error.value());
  std::ranges::sort(names);
  return names;
}

[[noreturn]] void no_weights(const fs::path& directory, const std::vector<std::string>& present) {
  const auto has = [&](std::string_view suffix) {
    return std::ranges::any_of(present, [&](const std::string& name) { return name.ends_with(suffix); });
  };
  std::string_view remedy = "give the directory of a Hugging Face model";
  if (has(".gguf")) remedy = "it has a GGUF file: import it first (tools/import_gguf.py)";
  if (has(".bin") || has(".pt") || has(".pth")) {
    remedy =
        "it has weights as a pickle, which can run code and is never read: save the model as safetensors "
        "(save_pretrained with safe_serialization=True)";
  }
  throw NoInputError(
      fmt::format("{}: neither {} nor {} is there; {}", directory.native(), kSingleFile, kIndexFile, remedy));
}

// "model" of "model-00001-of-00002.safetensors"; nothing for a file that is not called like a shard.
std::optional<std::string> shard_stem(std::string_view name) {
  constexpr std::string_view kEnd = "-#####-of-#####.safetensors";
  if (name.size() < kEnd.size()) return std::nullopt;
  const auto fits = [](char c, char pattern) { return pattern == '#' ? c >= '0' && c <= '9' : c == pattern; };
  const std::string_view stem = name.substr(0, name.size() - kEnd.size());
  return std::ranges::equal(name.substr(stem.size()), kEnd, fits) ? std::optional<std::string>(stem) : std::nullopt;
}

// A shard of the same set that the index does not name is a sign of two saves mixed in one directory.
void check_no_stray_shard(const fs::path& directory, const std::vector<std::string>& present,
                          const std::set<std::string>& listed) {
  std::set<std::string> stems;
  for (const std::string& name : listed) {
    if (const auto stem = shard_stem(name)) stems.insert(*stem);
  }
  for (const std::string& name : present) {
    const auto stem = shard_stem(name);
    RW_CHECK(!stem || !stems.contains(*stem) || listed.contains(name), DataError,
             "{}: {} is a shard that {} does not name; is it left from another save? Move it away", directory.native(),
             name, kIndexFile);
  }
}

// Each tensor of the index is in its shard, and the shards hold nothing else.
void check_agree(const ModelIndex& index, const std::vector<std::unique_ptr<SafetensorsFile>>& files,
                 const fs::path& place) {
  size_t num_found = 0;
  uint64_t total_bytes = 0;
  for (const auto& file : files) {
    const std::string shard = file->path().filename().native();
    for (const TensorEntry& tensor : file->header().tensors) {
      const auto at = index.shard_of_tensor.find(tensor.name);
      RW_CHECK(at != index.shard_of_tensor.end(), DataError, "{}: tensor \"{}\" of {} is not in weight_map",
               place.native(), tensor.name, shard);
      RW_CHECK(at->second == shard, DataError, "{}: tensor \"{}\" should be in {} and is in {}", place.native(),
               tensor.name, at->second, shard);
      ++num_found;
      total_bytes += tensor.end - tensor.begin;
    }
  }
  for (const auto& [tensor, shard] : index.shard_of_tensor) {
    if (num_found == index.shard_of_tensor.size()) break;
    const auto is_shard = [&](const auto& file) { return file->path().filename() == shard; };
    RW_CHECK((*std::ranges::find_if(files, is_shard))->find(tensor), DataError,
             "{}: tensor \"{}\" should be in {} and is not there", place.native(), tensor, shard);
  }
  RW_CHECK(index.total_size_bytes.value_or(total_bytes) == total_bytes, DataError,
           "{}: metadata.total_size is {}, the tensors have {} bytes; copy the model again, or remove the field if it "
           "is known to be wrong",
           place.native(), *index.total_size_bytes, total_bytes);
}

}  // namespace

ModelFiles::ModelFiles(const fs::path& model_dir) : directory_(model_dir) {
  const std::vector<std::string> present = file_names(directory_);
  if (std::ranges::binary_search(present, kSingleFile)) {
    open_files({std::string(kSingleFile)});
  } else if (std::ranges::binary_search(present, kIndexFile)) {
    open_shards(present);
  } else {
    no_weights(directory_, present);
  }
  for (size_t file = 0; file < files_.size(); ++file) {
    for (const TensorEntry& tensor : files_[file]->header().tensors)
      tensors_.emplace(tensor.name, Located{file, &tensor});
  }
}

void ModelFiles::open_shards(const std::vector<std::string>& present) {
  const fs::path index_path = directory_ / kIndexFile;
  check_stays_inside(directory_, std::string(kIndexFile));
  const ModelIndex index = parse_model_index(read_file(index_path, kMaxIndexBytes), index_path.native());
  std::set<std::string> shards;
  for (const auto& [tensor, shard] : index.shard_of_tensor) shards.insert(shard);
  for (const std::string& shard : shards) {
    RW_CHECK(std::ranges::binary_search(present, shard), NoInputError, "{}: {} is not there; copy the model again",
             index_path.native(), shard);
  }
  check_no_stray_shard(directory_, present, shards);
  open_files(shards);
  check_agree(index, files_, index_path);
}

void ModelFiles::open_files(const std::set<std::string>& names) {
  const UniqueFd directory(::open(directory_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!directory) throw_errno("open " + directory_.native(), errno);
  for (const std::string& name : names) {
    check_stays_inside(directory_, name);
    files_.push_back(std::make_unique<SafetensorsFile>(directory.get(), name, directory_ / name));
  }
}

const ModelFiles::Located* ModelFiles::locate(std::string_view name) const noexcept {
  const auto at = tensors_.find(name);
  return at == tensors_.end() ? nullptr : &at->second;
}

const TensorEntry* ModelFiles::find(std::string_view name) const noexcept {
  const Located* located = locate(name);
  return located ? located->entry : nullptr;
}

const TensorEntry& ModelFiles::entry(std::string_view name) const {
  const TensorEntry* found = find(name);
  RW_CHECK(found, DataError, "{}: has no tensor \"{}\"; nearest: \"{}\"", directory_.native(), name,
           nearest_name(name, names()));
  return *found;
}

std::vector<std::string> ModelFiles::names() const {
  std::vector<std::string> names;
  names.reserve(tensors_.size());
  for (const auto& [name, located] : tensors_) names.push_back(name);
  return names;
}

void ModelFiles::read(std::string_view name, uint64_t offset_bytes, std::span<std::byte> out) const {
  const TensorEntry& tensor = entry(name);
  files_[locate(name)->file]->read(tensor, offset_bytes, out);
}

uint64_t ModelFiles::bytes_read() const noexcept {
  uint64_t sum = 0;
  for (const auto& file : files_) sum += file->bytes_read();
  return sum;
}

uint64_t ModelFiles::total_bytes() const noexcept {
  uint64_t sum = 0;
  for (const auto& [name, located] : tensors_) sum += located.entry->end - located.entry->begin;
  return sum;
}

}  // namespace rankwise
