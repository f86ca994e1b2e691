#include "trainer/data/dataset_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "base/check.h"
#include "trainer/data/dataset.h"
#include "trainer/data/dataset_header.h"

namespace rankwise {
namespace {

void write_at(int fd, std::span<const std::byte> bytes, off_t offset, const std::filesystem::path& path) {
  while (!bytes.empty()) {
    const ssize_t written = ::pwrite(fd, bytes.data(), bytes.size(), offset);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) throw_errno("write " + path.string(), written < 0 ? errno : EIO);
    bytes = bytes.subspan(static_cast<size_t>(written));
    offset += written;
  }
}

}  // namespace

DatasetWriter::DatasetWriter(const std::filesystem::path& path)
    : path_(path), fd_(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666)) {
  if (!fd_) throw_errno("create " + path_.string(), errno);
  block_.reserve(kDatasetBlockBytes);
}

void DatasetWriter::flush_block() {
  write_at(fd_.get(), block_, static_cast<off_t>(kDatasetHeaderBytes + num_flushed_bytes_), path_);
  payload_hash_ = hash64(block_, payload_hash_);
  num_flushed_bytes_ += block_.size();
  block_.clear();
}

void DatasetWriter::append(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const size_t taken = std::min(bytes.size(), kDatasetBlockBytes - block_.size());
    block_.insert(block_.end(), bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(taken));
    bytes = bytes.subspan(taken);
    if (block_.size() == kDatasetBlockBytes) flush_block();
  }
}

void DatasetWriter::add(const EncodedSample& sample) {
  std::vector<uint32_t> tokens(sample.ids.size());
  for (size_t i = 0; i < tokens.size(); ++i) {
    tokens[i] = static_cast<uint32_t>(sample.ids[i]) | (sample.in_loss[i] != 0 ? kCarriesLoss : 0);
  }
  append(std::as_bytes(std::span(tokens)));
  sample_starts_.push_back(sample_starts_.back() + tokens.size());
  num_target_tokens_ += num_targets(sample);
}

std::vector<uint32_t> DatasetWriter::lengths() const {
  std::vector<uint32_t> lengths(sample_starts_.size() - 1);
  for (size_t i = 0; i < lengths.size(); ++i) {
    lengths[i] = static_cast<uint32_t>(sample_starts_[i + 1] - sample_starts_[i]);
  }
  return lengths;
}

void DatasetWriter::finish(const Rows& rows, std::string_view key, DataReport report) {
  DatasetHeader header;
  header.num_tokens = sample_starts_.back();
  header.num_samples = sample_starts_.size() - 1;
  header.num_rows = rows.size();
  RW_CHECK(key.size() == header.key.size() && rows.samples.size() == header.num_samples, Error,
           "a key of {} characters, {} samples in rows for {} samples", key.size(), rows.samples.size(),
           header.num_samples);
  std::copy(key.begin(), key.end(), header.key.begin());

  const std::array<std::byte, 8> zeros{};
  append(std::span(zeros).first(padded_token_bytes(header.num_tokens) - header.num_tokens * sizeof(uint32_t)));
  append(std::as_bytes(std::span(sample_starts_)));
  append(std::as_bytes(std::span(rows.starts)));
  append(std::as_bytes(std::span(rows.samples)));
  if (!block_.empty()) flush_block();

  report.num_samples = static_cast<int64_t>(header.num_samples);
  report.num_tokens = static_cast<int64_t>(header.num_tokens);
  report.num_target_tokens = num_target_tokens_;
  report.num_rows = static_cast<int64_t>(header.num_rows);
  header.report = report;
  header.payload_hash = payload_hash_;
  header.header_hash = header.hash_above();
  std::array<std::byte, kDatasetHeaderBytes> page{};
  std::memcpy(page.data(), &header, sizeof(header));
  write_at(fd_.get(), page, 0, path_);
  if (::fsync(fd_.get()) != 0) throw_errno("fsync " + path_.string(), errno);
  if (::close(fd_.release()) != 0) throw_errno("close " + path_.string(), errno);
}

}  // namespace rankwise
