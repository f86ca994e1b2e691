#include <ATen/core/Tensor.h>

#include "comms/communicator.h"
#include "comms/tensor_checks.h"

namespace rankwise {
namespace {

class LocalCommunicator final : public Communicator {
 public:
  int rank() const noexcept override { return 0; }
  int size() const noexcept override { return 1; }
  std::string_view transport() const noexcept override { return "local"; }
  std::unique_ptr<Communicator> split(int /*color*/, int /*key*/) override { return make_local_communicator(); }

  Work all_reduce(at::Tensor& tensor, Reduce /*op*/) override {
    require_reducible(tensor, transport());
    ++stats_.all_reduce_calls;
    stats_.all_reduce_bytes += tensor.nbytes();
    return {};
  }
  Work all_gather(const at::Tensor& shard, at::Tensor& whole) override {
    require_gatherable(shard, whole, 1);
    ++stats_.all_gather_calls;
    if (!is_in_place(shard, whole, 0)) whole.copy_(shard.view_as(whole));
    return {};
  }
  Work broadcast(at::Tensor& tensor, int root) override {
    require_broadcastable(tensor, root, 1);
    ++stats_.broadcast_calls;
    stats_.broadcast_bytes += tensor.nbytes();
    return {};
  }
  void check() override {}
  void finalize() override {}
  void abort() noexcept override {}
};

}  // namespace

std::unique_ptr<Communicator> make_local_communicator() { return std::make_unique<LocalCommunicator>(); }

}  // namespace rankwise
