// Private to comms/: what every transport asks of the tensors it is given, in one wording. What requires throws
// CommError.
#pragma once

#include <string_view>

namespace at {
class Tensor;
}

namespace rankwise {

// float32, float64, int32 or int64, and contiguous.
void require_reducible(const at::Tensor& tensor, std::string_view transport);
// `whole` has room for exactly one shard a rank; both contiguous.
void require_gatherable(const at::Tensor& shard, const at::Tensor& whole, int size);
// Whether a shard is its own part of `whole`: nothing of it has to be copied.
bool is_in_place(const at::Tensor& shard, const at::Tensor& whole, int rank);
void require_broadcastable(const at::Tensor& tensor, int root, int size);

}  // namespace rankwise
