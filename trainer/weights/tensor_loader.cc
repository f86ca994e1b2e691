#include "trainer/weights/tensor_loader.h"

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <c10/core/Event.h>

#include <algorithm>
#include <cmath>
#include <future>
#include <limits>
#include <optional>
#include <span>

#include "base/check.h"
#include "base/hash.h"
#include "trainer/weights/current_stream.h"

namespace rankwise {
namespace {

constexpr int64_t kLeafBytes = 4096;
// Read, hashed and converted at a time: what a CPU's cache holds, and what a copy to a device is quick with.
constexpr int64_t kChunkBytes = 1 << 20, kDeviceChunkBytes = 16 << 20;
// Threads for a device's chunk, each with a part of it: one alone reads and hashes some 2 GB/s, less than a copy moves.
constexpr int64_t kDeviceReaders = 4;
static_assert(kChunkBytes % kLeafBytes == 0 && kDeviceChunkBytes % (kDeviceReaders * kLeafBytes) == 0);

c10::ScalarType scalar_type(const TensorEntry& entry) {
  switch (entry.dtype) {
    case Dtype::kF64:
      return c10::kDouble;
    case Dtype::kF32:
      return c10::kFloat;
    case Dtype::kF16:
      return c10::kHalf;
    case Dtype::kBF16:
      return c10::kBFloat16;
    default:
      throw DataError(
          fmt::format("tensor {}: stored as {}; F32, F16 and BF16 are supported", entry.name, dtype_name(entry.dtype)));
  }
}

uint64_t hash_leaves(const std::string& name, int64_t first_leaf, std::span<const std::byte> bytes) {
  uint64_t sum = 0;
  for (size_t begin = 0; begin < bytes.size(); begin += kLeafBytes) {
    const auto leaf = static_cast<uint64_t>(first_leaf) + begin / kLeafBytes;
    sum += hash64(bytes.subspan(begin, std::min<size_t>(kLeafBytes, bytes.size() - begin)), hash64(name, leaf));
  }
  return sum;
}

template <typename T>
bool all_finite(const T* values, int64_t count) {
  bool finite = true;
  for (int64_t i = 0; i < count; ++i)
    finite &= std::abs(static_cast<float>(values[i])) <= std::numeric_limits<float>::max();
  return finite;
}

bool all_finite(const at::Tensor& flat) {
  return AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, flat.scalar_type(), "all_finite",
                                         [&] { return all_finite(flat.const_data_ptr<scalar_t>(), flat.numel()); });
}

}  // namespace

// A piece of a file on its way. To a device it goes through pinned memory, and is free again when the copy is done.
struct TensorLoader::Staging {
  at::Tensor bytes;
  std::optional<c10::Event> copied;

  explicit Staging(at::Device target)
      : bytes(at::empty({target.is_cpu() ? kChunkBytes : kDeviceChunkBytes},
                        at::TensorOptions().dtype(at::kByte).pinned_memory(!target.is_cpu()))) {
    if (!target.is_cpu()) copied.emplace(target.type());
  }
  std::span<std::byte> span(int64_t size) {
    return {static_cast<std::byte*>(bytes.mutable_data_ptr()), static_cast<size_t>(size)};
  }
};

TensorLoader::TensorLoader(const ModelFiles& files) : files_(files) {}

TensorLoader::~TensorLoader() = default;

void TensorLoader::require(const std::string& name, const std::vector<int64_t>& shape) const {
  const TensorEntry& entry = files_.entry(name);
  RW_CHECK(entry.shape == shape, DataError, "tensor {}: shape [{}] in the file, config.json asks for [{}]", entry.name,
           fmt::join(entry.shape, ", "), fmt::join(shape, ", "));
}

TensorLoader::Staging& TensorLoader::next_staging(at::Device target) {
  const size_t wanted = target.is_cpu() ? 1 : 2;
  while (staging_.size() < wanted) staging_.push_back(std::make_unique<Staging>(target));
  Staging& staging = *staging_[next_++ % wanted];
  if (staging.copied) staging.copied->synchronize();
  return staging;
}

uint64_t TensorLoader::read(const Range& range, std::span<std::byte> out) const {
  files_.read(range.name, static_cast<uint64_t>(range.first_byte), out);
  return range.counted ? hash_leaves(range.name, range.first_byte / kLeafBytes, out) : 0;
}

uint64_t TensorLoader::read_in_parts(const Range& range, std::span<std::byte> out) const {
  constexpr auto kPart = static_cast<size_t>(kDeviceChunkBytes / kDeviceReaders);
  std::vector<std::future<uint64_t>> others;  // waits for its threads also if this one throws
  for (size_t begin = kPart; begin < out.size(); begin += kPart) {
    const Range part{range.name, range.first_byte + static_cast<int64_t>(begin), range.counted};
    const auto bytes = out.subspan(begin, std::min(kPart, out.size() - begin));
    others.push_back(std::async(std::launch::async, [this, part, bytes] { return read(part, bytes); }));
  }
  uint64_t sum = read(range, out.first(std::min(kPart, out.size())));
  for (auto& other : others) sum += other.get();
  return sum;
}

void TensorLoader::load(const std::string& name, int64_t begin, at::Tensor out, bool counted) {
  const TensorEntry& entry = files_.entry(name);
  const auto stored_type = scalar_type(entry);
  const int64_t width = dtype_bytes(entry.dtype);
  const int64_t first_byte = begin * width, num_bytes = out.numel() * width;
  const bool here = out.is_cpu();
  bool finite = true;
  at::Tensor spoiled = here ? at::Tensor() : at::zeros({}, out.options().dtype(at::kBool));
  for (int64_t done = 0, bytes = 0; done < num_bytes; done += bytes) {
    Staging& staging = next_staging(out.device());
    bytes = std::min(staging.bytes.numel(), num_bytes - done);
    const Range range{name, first_byte + done, counted};
    fingerprint_ += here ? read(range, staging.span(bytes)) : read_in_parts(range, staging.span(bytes));
    const at::Tensor stored = staging.bytes.narrow(0, 0, bytes).view(stored_type);
    const at::Tensor part = out.narrow(0, done / width, bytes / width);
    part.copy_(stored, /*non_blocking=*/!here);
    if (staging.copied) staging.copied->record(current_stream(out.device()));
    if (here) {
      finite = finite && all_finite(stored);
    } else {
      spoiled.logical_or_(at::isfinite(part).logical_not_().any());
    }
  }
  if (!finite) ++nonfinite_;
  if (here) return;
  if (!nonfinite_there_.defined()) nonfinite_there_ = at::zeros({}, out.options().dtype(at::kLong));
  nonfinite_there_.add_(spoiled);
}

int64_t TensorLoader::nonfinite_tensors() const {
  return nonfinite_ + (nonfinite_there_.defined() ? nonfinite_there_.item<int64_t>() : 0);
}

}  // namespace rankwise
