#include <ATen/core/Tensor.h>

#include "base/check.h"
#include "comms/communicator.h"

namespace rankwise {
namespace {

class LocalCommunicator final : public Communicator {
 public:
  int rank() const noexcept override { return 0; }
  int size() const noexcept override { return 1; }
  std::string_view transport() const noexcept override { return "local"; }
  std::unique_ptr<Communicator> split(int /*color*/, int /*key*/) override { return make_local_communicator(); }

  Work all_reduce(at::Tensor& tensor, Reduce /*op*/) override {
    ++stats_.all_reduce_calls;
    stats_.all_reduce_bytes += tensor.nbytes();
    return {};
  }
  Work all_gather(const at::Tensor& shard, at::Tensor& whole) override {
    RW_CHECK(shard.nbytes() == whole.nbytes(), CommError, "all_gather over 1 rank: a shard of {} bytes for a whole of {}",
             shard.nbytes(), whole.nbytes());
    ++stats_.all_gather_calls;
    whole.copy_(shard.view_as(whole));
    return {};
  }
  Work broadcast(at::Tensor& tensor, int root) override {
    RW_CHECK(root == 0, CommError, "broadcast over 1 rank: root {}", root);
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
