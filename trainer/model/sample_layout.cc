#include "trainer/model/sample_layout.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <bit>
#include <limits>

#include "trainer/model/attention.h"
#include "trainer/model/gpu.h"

namespace rankwise {
namespace {

// The next power of two, or one and a half of one; nothing below `least`.
int64_t few_sizes(int64_t value, int64_t least) {
  if (value <= least) return least;
  const auto half = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(value - 1)) / 2);
  return (value + half - 1) / half * half;
}

std::vector<int64_t> lengths_of(const std::vector<int64_t>& starts) {
  std::vector<int64_t> lengths;
  for (size_t s = 0; s + 1 < starts.size(); ++s) lengths.push_back(starts[s + 1] - starts[s]);
  return lengths;
}

int64_t longest_of(const std::vector<int64_t>& starts) {
  const auto lengths = lengths_of(starts);
  return lengths.empty() ? 0 : *std::ranges::max_element(lengths);
}

std::vector<int64_t> times(std::vector<int64_t> values, int64_t factor) {
  for (int64_t& value : values) value *= factor;
  return values;
}

// Rows of int32 in one upload. A row begins at a multiple of 16 bytes.
std::vector<at::Tensor> upload_rows(std::vector<std::vector<int64_t>> rows, at::Device device) {
  constexpr size_t kPiece = 4;
  std::vector<int64_t> all;
  for (const auto& row : rows) {
    all.insert(all.end(), row.begin(), row.end());
    all.resize((all.size() + kPiece - 1) / kPiece * kPiece);
  }
  const at::Tensor there = upload(all, device).to(at::kInt);
  std::vector<at::Tensor> parts;
  int64_t begin = 0;
  for (const auto& row : rows) {
    const auto size = static_cast<int64_t>(row.size()), piece = static_cast<int64_t>(kPiece);
    parts.push_back(there.narrow(0, begin, size));
    begin += (size + piece - 1) / piece * piece;
  }
  return parts;
}

}  // namespace

std::optional<PackedSamples> pack_samples(const std::vector<int64_t>& starts, const AttentionShape& shape,
                                          at::Device device) {
  const int64_t rows = starts.back(), f = shape.num_heads * shape.head_dim, kd = shape.num_kv_heads * shape.head_dim;
  if (rows * shape.qkv_width() > std::numeric_limits<int32_t>::max()) return std::nullopt;
  const int64_t samples = few_sizes(static_cast<int64_t>(starts.size()) - 1, 8);
  std::vector<int64_t> lengths = lengths_of(starts), first = starts;
  lengths.resize(static_cast<size_t>(samples), 0);
  first.resize(static_cast<size_t>(samples) + 1, rows);
  const auto parts = upload_rows(
      {lengths, times(first, shape.qkv_width()), times(first, f), times(first, kd), times(first, shape.num_heads)},
      device);
  return PackedSamples{
      samples, few_sizes(longest_of(starts), 512), few_sizes(rows, 1024), parts[0], parts[1], parts[2], parts[3],
      parts[4]};
}

SampleLayout::SampleLayout(std::vector<int64_t> sample_starts) : starts(std::move(sample_starts)) {}

SampleLayout::SampleLayout(std::vector<int64_t> sample_starts, at::Device device, const AttentionShape& shape)
    : starts(std::move(sample_starts)) {
  if (!device.is_cuda()) return;
  starts_S = upload(starts, device).to(at::kInt);
  if (!dense()) packed = pack_samples(starts, shape, device);
}

int64_t SampleLayout::longest() const { return longest_of(starts); }

bool SampleLayout::dense() const {
  constexpr int64_t kStep = 256;
  const int64_t length = longest();
  return length > 0 && length % kStep == 0 && length * count() == starts.back();
}

}  // namespace rankwise
