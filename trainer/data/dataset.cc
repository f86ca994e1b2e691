#include "trainer/data/dataset.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/check.h"
#include "base/unique_handle.h"
#include "trainer/data/dataset_header.h"

namespace rankwise {
namespace {

template <typename T>
std::span<const T> take(const std::byte*& at, uint64_t count) {
  const std::span<const T> values(reinterpret_cast<const T*>(at), count);
  at += count * sizeof(T);
  return values;
}

// Of a header whose hash is right, so the counts are those that were written and cannot overflow.
uint64_t file_bytes(const DatasetHeader& header) {
  const uint64_t index_entries = (header.num_samples + 1) + (header.num_rows + 1) + header.num_samples;
  return kDatasetHeaderBytes + padded_token_bytes(header.num_tokens) + index_entries * sizeof(uint64_t);
}

uint64_t hash_payload(std::span<const std::byte> payload) {
  uint64_t hash = 0;
  for (; !payload.empty(); payload = payload.subspan(std::min(kDatasetBlockBytes, payload.size()))) {
    hash = hash64(payload.first(std::min(kDatasetBlockBytes, payload.size())), hash);
  }
  return hash;
}

void verify(std::span<const std::byte> file, std::string_view key, const std::string& name) {
  RW_CHECK(file.size() >= kDatasetHeaderBytes, DataError, "{}: {} bytes, less than a header", name, file.size());
  DatasetHeader header;
  std::memcpy(&header, file.data(), sizeof(header));
  RW_CHECK(header.magic == DatasetHeader::kMagic, DataError, "{}: not a prepared data set", name);
  RW_CHECK(header.version == DatasetHeader::kVersion, DataError, "{}: of version {}, this program writes {}", name,
           header.version, DatasetHeader::kVersion);
  RW_CHECK(header.header_hash == header.hash_above(), DataError, "{}: the header is damaged", name);
  RW_CHECK(file.size() == file_bytes(header), DataError, "{}: {} bytes, the header says {}", name, file.size(),
           file_bytes(header));
  const std::string_view found(header.key.data(), header.key.size());
  RW_CHECK(found == key, DataError, "{}: made from other data or settings, key {} instead of {}", name, found, key);
  RW_CHECK(header.payload_hash == hash_payload(file.subspan(kDatasetHeaderBytes)), DataError,
           "{}: the tokens are damaged", name);
}

}  // namespace

void DatasetCache::Unmap::operator()(const std::byte* at) const noexcept {
  ::munmap(const_cast<std::byte*>(at), num_bytes);
}

DatasetCache::DatasetCache(Mapping mapping) : mapping_(std::move(mapping)) {
  DatasetHeader header;
  std::memcpy(&header, mapping_.get(), sizeof(header));
  report_ = header.report;
  key_.assign(header.key.data(), header.key.size());
  const std::byte* at = mapping_.get() + kDatasetHeaderBytes;
  tokens_ = {reinterpret_cast<const uint32_t*>(at), header.num_tokens};
  at += padded_token_bytes(header.num_tokens);
  sample_starts_ = take<uint64_t>(at, header.num_samples + 1);
  row_starts_ = take<uint64_t>(at, header.num_rows + 1);
  row_samples_ = take<uint64_t>(at, header.num_samples);
}

std::optional<DatasetCache> DatasetCache::open(const std::filesystem::path& path, std::string_view key) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd && errno == ENOENT) return std::nullopt;
  if (!fd) throw_errno("open " + path.string(), errno);
  struct stat status {};
  if (::fstat(fd.get(), &status) != 0) throw_errno("stat " + path.string(), errno);
  const auto size = static_cast<size_t>(status.st_size);
  RW_CHECK(size > 0, DataError, "{}: empty", path.string());
  void* const mapped = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, fd.get(), 0);
  if (mapped == MAP_FAILED) throw_errno("map " + path.string(), errno);
  Mapping mapping(static_cast<const std::byte*>(mapped), Unmap{size});
  verify({mapping.get(), size}, key, path.string());
  return DatasetCache(std::move(mapping));
}

std::span<const uint64_t> DatasetCache::samples_of_row(int64_t row) const {
  RW_CHECK(row >= 0 && row < num_rows(), Error, "row {} of a data set of {} rows", row, num_rows());
  const auto r = static_cast<size_t>(row);
  return row_samples_.subspan(row_starts_[r], row_starts_[r + 1] - row_starts_[r]);
}

std::span<const uint32_t> DatasetCache::tokens_of_sample(uint64_t sample) const {
  return tokens_.subspan(sample_starts_[sample], sample_starts_[sample + 1] - sample_starts_[sample]);
}

}  // namespace rankwise
