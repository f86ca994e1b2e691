#include "trainer/weights/safetensors.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <tuple>
#include <utility>

#include "base/check.h"
#include "base/file.h"
#include "trainer/weights/safetensors_header.h"

namespace rankwise {
namespace {

// Written piece by piece: a JSON object would hide a name that is there twice.
std::string header_json(const std::vector<TensorView>& tensors, const std::map<std::string, std::string>& metadata) {
  using nlohmann::ordered_json;
  std::vector<std::string> members;
  if (!metadata.empty()) members.push_back("\"__metadata__\":" + ordered_json(metadata).dump());
  uint64_t offset = 0;
  for (const TensorView& tensor : tensors) {
    const uint64_t end = offset + tensor.data.size();
    const ordered_json entry = {
        {"dtype", dtype_name(tensor.dtype)}, {"shape", tensor.shape}, {"data_offsets", {offset, end}}};
    members.push_back(ordered_json(tensor.name).dump() + ":" + entry.dump());
    offset = end;
  }
  return fmt::format("{{{}}}", fmt::join(members, ","));
}

std::string with_length(std::string json) {
  constexpr size_t kDataAlignment = 8;
  json.append((kDataAlignment - json.size() % kDataAlignment) % kDataAlignment, ' ');
  std::string prefix;
  for (size_t i = 0; i < kSafetensorsLengthBytes; ++i) prefix += static_cast<char>(json.size() >> (8 * i) & 0xff);
  return prefix + json;
}

}  // namespace

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path) : path_(path) { open_and_parse(open_input(path)); }

SafetensorsFile::SafetensorsFile(int directory_fd, const std::string& name, const std::filesystem::path& shown_as)
    : path_(shown_as) {
  open_and_parse(open_input_at(directory_fd, name, shown_as));
}

void SafetensorsFile::open_and_parse(InputFile file) {
  std::string prefix(std::min(file.size_bytes, kSafetensorsLengthBytes), '\0');
  read_exactly_at(file.fd.get(), 0, std::as_writable_bytes(std::span(prefix)), path_);
  prefix.resize(kSafetensorsLengthBytes + safetensors_header_bytes(prefix, file.size_bytes, path_.native()));
  read_exactly_at(file.fd.get(), 0, std::as_writable_bytes(std::span(prefix)), path_);
  header_ = parse_safetensors_header(prefix, file.size_bytes, path_.native());
  for (const TensorEntry& tensor : header_.tensors) by_name_.emplace(tensor.name, &tensor);
  fd_ = std::move(file.fd);
  bytes_read_ = std::make_unique<std::atomic<uint64_t>>(0);
}

const TensorEntry* SafetensorsFile::find(std::string_view name) const noexcept {
  const auto at = by_name_.find(name);
  return at == by_name_.end() ? nullptr : at->second;
}

const TensorEntry& SafetensorsFile::entry(std::string_view name) const {
  const TensorEntry* found = find(name);
  RW_CHECK(found, DataError, "{}: has no tensor \"{}\"", path_.native(), name);
  return *found;
}

void SafetensorsFile::read(const TensorEntry& entry, uint64_t offset, std::span<std::byte> out) const {
  const uint64_t bytes = entry.end - entry.begin;
  RW_CHECK(offset <= bytes && out.size() <= bytes - offset, DataError,
           "{}: bytes {} to {} of tensor \"{}\" were asked for, it has {}", path_.native(), offset, offset + out.size(),
           entry.name, bytes);
  read_exactly_at(fd_.get(), header_.data_start + entry.begin + offset, out, path_);
  bytes_read_->fetch_add(out.size(), std::memory_order_relaxed);
}

uint64_t SafetensorsFile::bytes_read() const noexcept { return bytes_read_->load(std::memory_order_relaxed); }

void write_safetensors(const std::filesystem::path& path, std::vector<TensorView> tensors,
                       const std::map<std::string, std::string>& metadata) {
  std::ranges::sort(tensors, {}, [](const TensorView& tensor) {
    return std::tuple(-safetensors_dtype_order(tensor.dtype), std::string_view(tensor.name));
  });
  std::string prefix;
  try {
    prefix = with_length(header_json(tensors, metadata));
  } catch (const nlohmann::json::type_error&) {
    throw DataError(path.native() + ": a tensor's name or the metadata is not UTF-8");
  }
  std::vector<std::span<const std::byte>> pieces{std::as_bytes(std::span(prefix))};
  uint64_t file_bytes = prefix.size();
  for (const TensorView& tensor : tensors) {
    pieces.push_back(tensor.data);
    file_bytes += tensor.data.size();
  }
  parse_safetensors_header(prefix, file_bytes, path.native());  // nothing is written that would not be read
  write_new_file(path, pieces);
}

}  // namespace rankwise
