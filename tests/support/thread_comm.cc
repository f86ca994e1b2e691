#include "tests/support/thread_comm.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <map>
#include <mutex>
#include <numeric>
#include <thread>
#include <vector>

#include "base/check.h"
#include "comms/tensor_checks.h"

namespace rankwise::testing {
namespace {

using namespace std::chrono_literals;
constexpr auto kPatience = 30s;

class Group;

// What one rank brings to an operation.
struct Part {
  std::string what;  // the same on all ranks, or they are out of step
  at::Tensor in, out;
  int color = 0, key = 0;
  std::shared_ptr<Group> group;  // result of a split
  int rank = 0;                  // in that group
};

struct Operation {
  explicit Operation(size_t size) : parts(size) {}
  std::vector<Part> parts;
  size_t joined = 0;
  bool done = false;
};

class Group {
 public:
  explicit Group(int num_ranks) : size_(static_cast<size_t>(num_ranks)) {}
  int size() const { return static_cast<int>(size_); }

  std::shared_ptr<Operation> join(uint64_t number, int rank, Part part,
                                  const std::function<void(std::vector<Part>&)>& run) {
    const std::lock_guard lock(mutex_);
    auto& operation = operations_.try_emplace(number, nullptr).first->second;
    if (operation == nullptr) operation = std::make_shared<Operation>(size_);
    const auto joining = operation;
    joining->parts[static_cast<size_t>(rank)] = std::move(part);
    if (++joining->joined < size_) return joining;
    operations_.erase(number);
    const auto& parts = joining->parts;
    const bool in_step =
        std::all_of(parts.begin(), parts.end(), [&](const Part& p) { return p.what == parts[0].what; });
    if (in_step) {
      run(joining->parts);
      joining->done = true;
    } else {
      broken_ = fmt::format("ranks out of step: \"{}\" beside \"{}\"", parts.front().what, parts.back().what);
    }
    changed_.notify_all();
    return joining;
  }

  void wait(const Operation& operation) {
    std::unique_lock lock(mutex_);
    const bool in_time = changed_.wait_for(lock, kPatience, [&] { return operation.done || !broken_.empty(); });
    RW_CHECK(operation.done, CommError, "{}", in_time ? broken_ : "the other ranks did not come");
  }

  void abort(int rank) {
    const std::lock_guard lock(mutex_);
    broken_ = fmt::format("aborted by rank {}", rank);
    changed_.notify_all();
  }

 private:
  const size_t size_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<uint64_t, std::shared_ptr<Operation>> operations_;  // those that not all ranks have joined
  std::string broken_;
};

void reduce(std::vector<Part>& parts, Reduce op) {
  at::Tensor total = parts[0].out.clone();
  for (size_t r = 1; r < parts.size(); ++r) {
    const at::Tensor& next = parts[r].out;
    total = op == Reduce::kSum   ? total + next
            : op == Reduce::kMin ? at::minimum(total, next)
                                 : at::maximum(total, next);
  }
  for (auto& part : parts) part.out.copy_(total);
}

// Returns the end of what was written. Not memcpy, which must not be given the null pointer of an empty tensor, nor a
// part that lies in its place already.
char* copy_bytes(const at::Tensor& from, void* to) {
  if (from.const_data_ptr() == to) return static_cast<char*>(to) + from.nbytes();
  return std::copy_n(static_cast<const char*>(from.const_data_ptr()), from.nbytes(), static_cast<char*>(to));
}

void gather(std::vector<Part>& parts) {
  for (auto& receiver : parts) {
    void* to = receiver.out.data_ptr();
    for (const auto& sender : parts) to = copy_bytes(sender.in, to);
  }
}

void divide(std::vector<Part>& parts) {
  std::vector<size_t> order(parts.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return parts[a].key < parts[b].key; });
  std::map<int, std::vector<size_t>> members;
  for (const size_t rank : order) members[parts[rank].color].push_back(rank);
  for (const auto& [color, ranks] : members) {
    const auto group = std::make_shared<Group>(static_cast<int>(ranks.size()));
    for (size_t r = 0; r < ranks.size(); ++r) {
      parts[ranks[r]].group = group;
      parts[ranks[r]].rank = static_cast<int>(r);
    }
  }
}

class ThreadCommunicator final : public Communicator {
 public:
  ThreadCommunicator(std::shared_ptr<Group> group, int rank) : group_(std::move(group)), rank_(rank) {}
  int rank() const noexcept override { return rank_; }
  int size() const noexcept override { return group_->size(); }
  std::string_view transport() const noexcept override { return "threads"; }

  std::unique_ptr<Communicator> split(int color, int key) override {
    const auto operation = join({"split", {}, {}, color, key, {}, 0}, divide);
    group_->wait(*operation);
    const auto& mine = operation->parts[static_cast<size_t>(rank_)];
    return std::make_unique<ThreadCommunicator>(mine.group, mine.rank);
  }

  Work all_reduce(at::Tensor& tensor, Reduce op) override {
    require_reducible(tensor, transport());
    ++stats_.all_reduce_calls;
    stats_.all_reduce_bytes += tensor.nbytes();
    return start(
        {fmt::format("all_reduce {} of {} bytes", static_cast<int>(op), tensor.nbytes()), {}, tensor, 0, 0, {}, 0},
        [op](std::vector<Part>& parts) { reduce(parts, op); });
  }

  Work all_gather(const at::Tensor& shard, at::Tensor& whole) override {
    require_gatherable(shard, whole, size());
    ++stats_.all_gather_calls;
    stats_.all_gather_bytes += whole.nbytes() - shard.nbytes();
    return start({fmt::format("all_gather of {} bytes", whole.nbytes()), shard, whole, 0, 0, {}, 0}, gather);
  }

  Work broadcast(at::Tensor& tensor, int root) override {
    require_broadcastable(tensor, root, size());
    ++stats_.broadcast_calls;
    stats_.broadcast_bytes += tensor.nbytes();
    return start({fmt::format("broadcast of {} bytes from {}", tensor.nbytes(), root), {}, tensor, 0, 0, {}, 0},
                 [root](std::vector<Part>& parts) {
                   const at::Tensor source = parts[static_cast<size_t>(root)].out.clone();
                   for (auto& part : parts) copy_bytes(source, part.out.data_ptr());
                 });
  }

  void check() override {}
  void finalize() override {
    start({"finalize", {}, {}, 0, 0, {}, 0}, [](std::vector<Part>&) {}).wait();
  }
  void abort() noexcept override { group_->abort(rank_); }

 private:
  std::shared_ptr<Operation> join(Part part, std::function<void(std::vector<Part>&)> run) {
    return group_->join(next_++, rank_, std::move(part), std::move(run));
  }
  Work start(Part part, std::function<void(std::vector<Part>&)> run) {
    return Work([group = group_, operation = join(std::move(part), std::move(run))] { group->wait(*operation); });
  }

  std::shared_ptr<Group> group_;
  int rank_;
  uint64_t next_ = 0;
};

}  // namespace

void run_ranks(int size, const std::function<void(Communicator&)>& body) {
  const auto group = std::make_shared<Group>(size);
  std::mutex mutex;
  std::exception_ptr first_failure;
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank) {
    threads.emplace_back([&, rank] {
      ThreadCommunicator communicator(group, rank);
      try {
        body(communicator);
      } catch (...) {
        const std::lock_guard lock(mutex);
        if (!first_failure) first_failure = std::current_exception();
        communicator.abort();
      }
    });
  }
  for (auto& thread : threads) thread.join();
  if (first_failure) std::rethrow_exception(first_failure);
}

}  // namespace rankwise::testing
