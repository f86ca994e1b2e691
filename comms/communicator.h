// One group of ranks that act together. Every rank starts the same operations in the same order.
// Calls come from one thread at a time, not always the same one. Weight gathers and gradient reductions use two
// communicators; control (agreement, hashes, hand-shake) goes over MPI also on GPUs.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace at {
class Tensor;
}

namespace rankwise {

enum class Reduce { kSum, kMin, kMax };

// A started operation. wait() orders the current stream behind it (CUDA) or blocks until it is done (CPU); once.
// A Work that is destroyed without wait() was abandoned, by an error or because its result is no longer wanted: it does
// not block.
class Work {
 public:
  Work() = default;  // already done
  explicit Work(std::function<void()> wait) : wait_(std::move(wait)) {}
  bool pending() const { return wait_ != nullptr; }  // wait() was not called yet
  void wait() {
    if (auto wait = std::exchange(wait_, nullptr)) wait();
  }

 private:
  std::function<void()> wait_;
};

// What went over the wire, for metrics and for the tests that compare it with the plan. Bytes are those of this rank:
// all_reduce and broadcast count the tensor once, all_gather what this rank received from the others.
struct CommStats {
  uint64_t all_reduce_calls = 0;
  uint64_t all_reduce_bytes = 0;
  uint64_t all_gather_calls = 0;
  uint64_t all_gather_bytes = 0;
  uint64_t broadcast_calls = 0;
  uint64_t broadcast_bytes = 0;
};

// Told when a rank starts to wait for the others and when it stops, so that a watchdog can tell who keeps whom waiting.
class CommObserver {
 public:
  virtual ~CommObserver() = default;
  virtual void wait_begins(std::string_view operation) noexcept = 0;
  virtual void wait_ends() noexcept = 0;
};

// A part of each of several tensors on every rank of a group, which nobody writes again.
class SharedParts {
 public:
  virtual ~SharedParts() = default;
  virtual std::string_view transport() const noexcept = 0;  // of the group, or "peer": read from the others' memory
  // Starts to bring tensor `index` together in rank order. All ranks bring the same ones in the same order. As
  // Communicator::all_gather, and counted as one.
  virtual Work gather(size_t index, at::Tensor& whole) = 0;
};

class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const noexcept = 0;                    // 0 .. size()-1
  virtual int size() const noexcept = 0;                    // >= 1
  virtual std::string_view transport() const noexcept = 0;  // local | mpi | nccl | threads

  // Collective. The ranks of one color form the new group, ordered by key. Same color everywhere: a duplicate.
  virtual std::unique_ptr<Communicator> split(int color, int key) = 0;

  // Each starts an operation on contiguous tensors, which are kept alive until it is over and must not be written
  // before Work::wait() returns. Throws CommError naming rank, operation and bytes.
  // A shard may lie in its place in `whole`; then it is only read.
  virtual Work all_reduce(at::Tensor& tensor, Reduce op) = 0;               // float32, float64, int32, int64
  virtual Work all_gather(const at::Tensor& shard, at::Tensor& whole) = 0;  // any dtype, as bytes; equal shards
  virtual Work broadcast(at::Tensor& tensor, int root) = 0;                 // any dtype, as bytes

  // Collective. `parts`: contiguous, on every rank as many and of the same sizes; not written from now on. The group
  // outlives the result. GPUs of one host read each other's memory with their copy engines: since nothing changes, a
  // gather needs no kernel and no rank waits for another; their processes have to end together (World::finalize).
  virtual std::unique_ptr<SharedParts> share(std::vector<at::Tensor> parts);

  virtual void check() = 0;           // throws CommError on an asynchronous error
  virtual void finalize() = 0;        // success: collective, may throw
  virtual void abort() noexcept = 0;  // failure: local, without waiting; the watchdog may call it from its thread

  const CommStats& stats() const noexcept { return stats_; }

 protected:
  CommStats stats_;
};

// A group of one: nothing is sent, everything is copied.
std::unique_ptr<Communicator> make_local_communicator();

}  // namespace rankwise
