#include "comms/tensor_checks.h"

#include <ATen/core/Tensor.h>

#include "base/check.h"

namespace rankwise {

void require_reducible(const at::Tensor& tensor, std::string_view transport) {
  const auto dtype = tensor.scalar_type();
  RW_CHECK(dtype == at::kFloat || dtype == at::kDouble || dtype == at::kInt || dtype == at::kLong, CommError,
           "all_reduce of {} is not supported over {}; use float32, float64, int32 or int64", c10::toString(dtype),
           transport);
  RW_CHECK(tensor.is_contiguous(), CommError, "all_reduce needs a contiguous tensor");
}

void require_gatherable(const at::Tensor& shard, const at::Tensor& whole, int size) {
  RW_CHECK(whole.nbytes() == shard.nbytes() * static_cast<size_t>(size), CommError,
           "all_gather: {} shards of {} bytes for a whole of {}", size, shard.nbytes(), whole.nbytes());
  RW_CHECK(shard.is_contiguous() && whole.is_contiguous(), CommError, "all_gather needs contiguous tensors");
}

bool is_in_place(const at::Tensor& shard, const at::Tensor& whole, int rank) {
  return shard.const_data_ptr() ==
         static_cast<const char*>(whole.const_data_ptr()) + static_cast<size_t>(rank) * shard.nbytes();
}

void require_broadcastable(const at::Tensor& tensor, int root, int size) {
  RW_CHECK(root >= 0 && root < size, CommError, "broadcast over {} ranks: root {}", size, root);
  RW_CHECK(tensor.is_contiguous(), CommError, "broadcast needs a contiguous tensor");
}

}  // namespace rankwise
