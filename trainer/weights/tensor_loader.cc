#include "trainer/weights/tensor_loader.h"

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

#include "base/check.h"
#include "base/hash.h"

namespace rankwise {
namespace {

constexpr int64_t kLeafBytes = 4096;
constexpr int64_t kChunkBytes = 1 << 20;  // read, hashed and converted at a time; a multiple of the leaf
static_assert(kChunkBytes % kLeafBytes == 0);

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

TensorLoader::TensorLoader(const ModelFiles& files) : files_(files), chunk_(kChunkBytes) {}

void TensorLoader::load(const std::string& name, int64_t begin, at::Tensor out, bool counted) {
  const TensorEntry& entry = files_.entry(name);
  const auto stored_type = scalar_type(entry);
  const int64_t width = dtype_bytes(entry.dtype);
  const int64_t first_byte = begin * width, num_bytes = out.numel() * width;
  bool finite = true;
  for (int64_t done = 0; done < num_bytes; done += kChunkBytes) {
    const int64_t bytes = std::min(kChunkBytes, num_bytes - done);
    const std::span<std::byte> part = std::span(chunk_).first(static_cast<size_t>(bytes));
    files_.read(name, static_cast<uint64_t>(first_byte + done), part);
    if (counted) fingerprint_ += hash_leaves(name, (first_byte + done) / kLeafBytes, part);
    const at::Tensor stored = at::from_blob(part.data(), {bytes / width}, at::TensorOptions().dtype(stored_type));
    finite = finite && all_finite(stored);
    out.narrow(0, done / width, bytes / width).copy_(stored);
  }
  if (!finite) ++nonfinite_;
}

}  // namespace rankwise
