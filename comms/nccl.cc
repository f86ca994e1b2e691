#include "comms/nccl.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAEvent.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <nccl.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

#include "base/check.h"
#include "comms/cuda_device.h"
#include "comms/peer_parts.h"
#include "comms/tensor_checks.h"

namespace rankwise {
namespace {

using Clock = std::chrono::steady_clock;
using namespace std::chrono_literals;

ncclDataType_t nccl_type(at::ScalarType dtype) {
  switch (dtype) {
    case at::kFloat:
      return ncclFloat32;
    case at::kDouble:
      return ncclFloat64;
    case at::kInt:
      return ncclInt32;
    default:
      return ncclInt64;  // require_reducible knows no other
  }
}

ncclRedOp_t nccl_op(Reduce op) { return op == Reduce::kSum ? ncclSum : op == Reduce::kMin ? ncclMin : ncclMax; }

// All communicators are non-blocking: NCCL returns at once, and a call has happened only when the communicator has left
// ncclInProgress. So a peer that is gone costs us a deadline and never a thread.
class NcclCommunicator final : public Communicator {
 public:
  // Not formed yet: see meet() and split().
  NcclCommunicator(c10::DeviceIndex device, const NcclOptions& options)
      : device_(device), options_(options), stream_(c10::cuda::getStreamFromPool(/*isHighPriority=*/true, device)) {}
  ~NcclCommunicator() override { abort(); }

  void meet(const ncclUniqueId& id, int rank, int size);

  int rank() const noexcept override { return rank_; }
  int size() const noexcept override { return size_; }
  std::string_view transport() const noexcept override { return "nccl"; }
  std::unique_ptr<Communicator> split(int color, int key) override;

  Work all_reduce(at::Tensor& tensor, Reduce op) override;
  Work all_gather(const at::Tensor& shard, at::Tensor& whole) override;
  Work broadcast(at::Tensor& tensor, int root) override;
  std::unique_ptr<SharedParts> share(std::vector<at::Tensor> parts) override;

  void check() override;
  void finalize() override;
  void abort() noexcept override;

 private:
  struct Pending {
    std::string_view operation;
    size_t bytes;
    std::vector<at::Tensor> tensors;  // the caching allocator does not know of our stream
    std::shared_ptr<c10::cuda::CUDAEvent> done;
    Clock::time_point started;
  };
  // Every call into NCCL goes through here: abort() must not meet another thread inside.
  template <typename Call>
  ncclResult_t call(const Call& nccl_call) {
    const std::lock_guard lock(mutex_);
    RW_CHECK(!aborted_, CommError, "rank {} of {}: the NCCL communicator was aborted", rank_, size_);
    return nccl_call();
  }
  ncclResult_t state() {
    return call([this] {
      const ncclComm_t comm = std::atomic_ref(comm_).load();
      if (comm == nullptr)
        return ncclInProgress;  // of a split: a thread of NCCL's fills it in, even after the parent settled
      ncclResult_t state = ncclSuccess;
      const ncclResult_t asked = ncclCommGetAsyncError(comm, &state);
      return asked == ncclSuccess ? state : asked;
    });
  }
  void settle(ncclResult_t result, std::string_view operation, size_t bytes);
  void require(ncclResult_t result, std::string_view operation, size_t bytes) const;
  void require_here(const at::Tensor& tensor, std::string_view operation) const;
  void reap();
  template <typename Launch>
  Work start(std::string_view operation, size_t bytes, std::vector<at::Tensor> tensors, const Launch& launch);

  const c10::DeviceIndex device_;
  const NcclOptions options_;
  const c10::cuda::CUDAStream stream_;  // of our own: a gather runs beside the GEMMs of the current stream
  int rank_ = 0, size_ = 1;
  std::timed_mutex mutex_;
  std::atomic<bool> aborted_{false};
  ncclComm_t comm_ = nullptr;
  std::deque<Pending> pending_;  // in the order of the stream
  bool told_waiting_ = false;    // the observer knows of pending_.front()
};

void NcclCommunicator::require(ncclResult_t result, std::string_view operation, size_t bytes) const {
  RW_CHECK(result == ncclSuccess, CommError, "rank {} of {} on cuda:{}: {} of {} bytes over NCCL: {} ({})", rank_,
           size_, static_cast<int>(device_), operation, bytes, ncclGetErrorString(result), ncclGetLastError(nullptr));
}

void NcclCommunicator::settle(ncclResult_t result, std::string_view operation, size_t bytes) {
  const auto begin = Clock::now();
  while (result == ncclInProgress) {
    const auto waited = Clock::now() - begin;
    RW_CHECK(waited < options_.timeout, CommError,
             "rank {} of {} on cuda:{}: {} over NCCL: the other ranks did not come within {} s", rank_, size_,
             static_cast<int>(device_), operation, std::chrono::duration<double>(options_.timeout).count());
    if (waited > 1ms) std::this_thread::sleep_for(1ms);
    result = state();
  }
  require(result, operation, bytes);
}

void NcclCommunicator::require_here(const at::Tensor& tensor, std::string_view operation) const {
  RW_CHECK(tensor.is_cuda() && tensor.get_device() == device_, CommError, "{} over NCCL needs a tensor on cuda:{}",
           operation, static_cast<int>(device_));
}

void NcclCommunicator::meet(const ncclUniqueId& id, int rank, int size) {
  rank_ = rank;
  size_ = size;
  const c10::cuda::CUDAGuard guard(device_);
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  settle(call([&] { return ncclCommInitRankConfig(&comm_, size, id, rank, &config); }), "meet", 0);
}

std::unique_ptr<Communicator> NcclCommunicator::split(int color, int key) {
  const c10::cuda::CUDAGuard guard(device_);
  auto part = std::make_unique<NcclCommunicator>(device_, options_);
  settle(call([&] { return ncclCommSplit(comm_, color, key, &part->comm_, nullptr); }), "split", 0);
  part->settle(part->state(), "split", 0);
  require(ncclCommUserRank(part->comm_, &part->rank_), "split", 0);
  require(ncclCommCount(part->comm_, &part->size_), "split", 0);
  return part;
}

// Behind what the current stream has been given so far, and beside what it will be given until Work::wait().
template <typename Launch>
Work NcclCommunicator::start(std::string_view operation, size_t bytes, std::vector<at::Tensor> tensors,
                             const Launch& launch) {
  reap();
  const c10::cuda::CUDAGuard guard(device_);
  c10::cuda::CUDAEvent inputs_ready;
  inputs_ready.record(c10::cuda::getCurrentCUDAStream(device_));
  inputs_ready.block(stream_);
  settle(call(launch), operation, bytes);
  auto done = std::make_shared<c10::cuda::CUDAEvent>();
  done->record(stream_);
  pending_.push_back({operation, bytes, std::move(tensors), done, Clock::now()});
  return Work([done, device = device_] { done->block(c10::cuda::getCurrentCUDAStream(device)); });
}

Work NcclCommunicator::all_reduce(at::Tensor& tensor, Reduce op) {
  require_reducible(tensor, transport());
  require_here(tensor, "all_reduce");
  const ncclDataType_t type = nccl_type(tensor.scalar_type());
  ++stats_.all_reduce_calls;
  stats_.all_reduce_bytes += tensor.nbytes();
  void* data = tensor.data_ptr();
  const auto count = static_cast<size_t>(tensor.numel());
  return start("all_reduce", tensor.nbytes(), {tensor},
               [&] { return ncclAllReduce(data, data, count, type, nccl_op(op), comm_, stream_.stream()); });
}

Work NcclCommunicator::all_gather(const at::Tensor& shard, at::Tensor& whole) {
  require_gatherable(shard, whole, size_);
  require_here(shard, "all_gather");
  require_here(whole, "all_gather");
  ++stats_.all_gather_calls;
  stats_.all_gather_bytes += whole.nbytes() - shard.nbytes();
  return start("all_gather", whole.nbytes(), {shard, whole}, [&] {
    return ncclAllGather(shard.data_ptr(), whole.data_ptr(), shard.nbytes(), ncclUint8, comm_, stream_.stream());
  });
}

Work NcclCommunicator::broadcast(at::Tensor& tensor, int root) {
  require_broadcastable(tensor, root, size_);
  require_here(tensor, "broadcast");
  ++stats_.broadcast_calls;
  stats_.broadcast_bytes += tensor.nbytes();
  return start("broadcast", tensor.nbytes(), {tensor}, [&] {
    return ncclBroadcast(tensor.data_ptr(), tensor.data_ptr(), tensor.nbytes(), ncclUint8, root, comm_,
                         stream_.stream());
  });
}

std::unique_ptr<SharedParts> NcclCommunicator::share(std::vector<at::Tensor> parts) {
  if (!options_.peer_copies || size_ == 1 || parts.empty()) return Communicator::share(std::move(parts));
  const CommStats before = stats_;
  auto peers = make_peer_parts(*this, parts, stats_);
  stats_ = before;  // the introduction is no part of the traffic that plans speak of
  return peers ? std::move(peers) : Communicator::share(std::move(parts));
}

void NcclCommunicator::reap() {
  while (!pending_.empty() && pending_.front().done->query()) {
    pending_.pop_front();
    told_waiting_ = false;
    if (options_.observer != nullptr) options_.observer->wait_ends();
  }
}

// For whoever waits on the host for something behind an operation: to be called at least every 100 ms meanwhile.
void NcclCommunicator::check() {
  settle(state(), "check", 0);
  reap();
  if (pending_.empty()) return;
  const Pending& oldest = pending_.front();
  if (options_.observer != nullptr && !std::exchange(told_waiting_, true))
    options_.observer->wait_begins(oldest.operation);
  RW_CHECK(Clock::now() - oldest.started < options_.timeout, CommError,
           "rank {} of {} on cuda:{}: {} of {} bytes over NCCL did not finish within {} s", rank_, size_,
           static_cast<int>(device_), oldest.operation, oldest.bytes,
           std::chrono::duration<double>(options_.timeout).count());
}

void NcclCommunicator::finalize() {
  const c10::cuda::CUDAGuard guard(device_);
  settle(call([&] { return ncclCommFinalize(comm_); }), "finalize", 0);
  const ncclComm_t comm = std::exchange(comm_, nullptr);
  aborted_ = true;  // nothing is left to abort
  require(ncclCommDestroy(comm), "finalize", 0);
}

void NcclCommunicator::abort() noexcept {
  if (aborted_.exchange(true)) return;
  // A thread that is stuck inside NCCL in spite of everything must not keep the caller, who is about to end the
  // process.
  const std::unique_lock lock(mutex_, 1s);
  if (lock.owns_lock() && comm_ != nullptr) ncclCommAbort(std::exchange(comm_, nullptr));
}

// Rank 0's id on every rank. A failure of rank 0 is known to all: nobody waits for an id that never comes.
ncclUniqueId share_id(Communicator& control) {
  ncclUniqueId id = {};
  at::Tensor message = at::zeros({static_cast<int64_t>(sizeof(id)) + 1}, at::kByte);
  auto* bytes = message.data_ptr<uint8_t>();
  if (control.rank() == 0 && ncclGetUniqueId(&id) == ncclSuccess) {
    std::memcpy(bytes, &id, sizeof(id));
    bytes[sizeof(id)] = 1;
  }
  control.broadcast(message, 0).wait();
  RW_CHECK(bytes[sizeof(id)] == 1, CommError,
           "rank 0 could not open an NCCL rendezvous ({}); NCCL_SOCKET_IFNAME names the interface",
           ncclGetLastError(nullptr));
  std::memcpy(&id, bytes, sizeof(id));
  return id;
}

void require_devices(Communicator& control, int devices, int local_size) {
  const bool enough = devices >= local_size;
  at::Tensor all_have = at::full({1}, enough ? 1 : 0, at::kInt);
  control.all_reduce(all_have, Reduce::kMin).wait();
  RW_CHECK(enough, UnavailableError,
           "{} rank(s) on this host but {} CUDA device(s); start at most one rank a device, and let every rank see all "
           "devices of its host (CUDA_VISIBLE_DEVICES)",
           local_size, devices);
  RW_CHECK(*all_have.const_data_ptr<int>() == 1, UnavailableError,
           "another rank's host has fewer CUDA devices than ranks");
}

}  // namespace
}  // namespace rankwise

rankwise::Communicator* rankwise_make_nccl_communicator(rankwise::Communicator* control,
                                                        const rankwise::NcclOptions* options) {
  using namespace rankwise;
  require_devices(*control, rankwise_num_cuda_devices(), options->local_size);
  ::setenv("NCCL_NVLS_ENABLE", "0", /*overwrite=*/0);
  const auto device = static_cast<c10::DeviceIndex>(options->local_rank);
  c10::cuda::set_device(device);
  auto communicator = std::make_unique<NcclCommunicator>(device, *options);
  communicator->meet(share_id(*control), control->rank(), control->size());
  return communicator.release();
}
