#include "comms/mpi.h"

#include <ATen/core/Tensor.h>
#include <mpi.h>

#include <climits>

#include "base/check.h"
#include "comms/tensor_checks.h"

namespace rankwise {

void mpi_check(int code, std::string_view operation) {
  if (code == MPI_SUCCESS) [[likely]]
    return;
  char text[MPI_MAX_ERROR_STRING] = {};
  int length = 0;
  MPI_Error_string(code, text, &length);
  throw CommError(fmt::format("{}: {}", operation, std::string_view(text, static_cast<size_t>(length))));
}

namespace {

MPI_Datatype mpi_type(at::ScalarType dtype) {
  switch (dtype) {
    case at::kFloat:
      return MPI_FLOAT;
    case at::kDouble:
      return MPI_DOUBLE;
    case at::kInt:
      return MPI_INT32_T;
    default:
      return MPI_INT64_T;  // require_reducible knows no other
  }
}

MPI_Op mpi_op(Reduce op) { return op == Reduce::kSum ? MPI_SUM : op == Reduce::kMin ? MPI_MIN : MPI_MAX; }

void require_on_cpu(const at::Tensor& tensor, std::string_view operation) {
  RW_CHECK(tensor.is_cpu(), CommError, "{} over MPI needs a tensor in host memory", operation);
}

// MPI counts are ints: larger buffers travel in blocks.
class ByteBlocks {
 public:
  explicit ByteBlocks(size_t bytes) {
    if (bytes <= INT_MAX) {
      count_ = static_cast<int>(bytes);
      return;
    }
    RW_CHECK(bytes % kBlock == 0, CommError, "a buffer of {} bytes is above 2 GiB and not a multiple of {}", bytes,
             kBlock);
    mpi_check(MPI_Type_contiguous(kBlock, MPI_BYTE, &type_), "MPI_Type_contiguous");
    mpi_check(MPI_Type_commit(&type_), "MPI_Type_commit");
    count_ = static_cast<int>(bytes / kBlock);
  }
  ~ByteBlocks() {
    if (type_ != MPI_BYTE) MPI_Type_free(&type_);  // only marks it: operations under way keep it alive
  }
  ByteBlocks(const ByteBlocks&) = delete;
  ByteBlocks& operator=(const ByteBlocks&) = delete;
  int count() const { return count_; }
  MPI_Datatype type() const { return type_; }

 private:
  static constexpr int kBlock = 4096;
  int count_ = 0;
  MPI_Datatype type_ = MPI_BYTE;
};

using Tensors = std::vector<at::Tensor>;

// Owns the tensors of an operation for as long as MPI may touch them, whatever becomes of the caller's.
class Operation {
 public:
  Operation(MPI_Request request, Tensors tensors, std::shared_ptr<Tensors> abandoned)
      : request_(request), tensors_(std::move(tensors)), abandoned_(std::move(abandoned)) {}
  ~Operation() {
    if (request_ != MPI_REQUEST_NULL) abandoned_->insert(abandoned_->end(), tensors_.begin(), tensors_.end());
  }
  Operation(const Operation&) = delete;
  Operation& operator=(const Operation&) = delete;
  int wait() { return MPI_Wait(&request_, MPI_STATUS_IGNORE); }

 private:
  MPI_Request request_;
  Tensors tensors_;
  std::shared_ptr<Tensors> abandoned_;
};

class MpiCommunicator final : public Communicator {
 public:
  MpiCommunicator(MPI_Comm comm, CommObserver* observer, std::shared_ptr<Tensors> abandoned)
      : comm_(comm), observer_(observer), abandoned_(std::move(abandoned)) {
    MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN);
    MPI_Comm_rank(comm_, &rank_);
    MPI_Comm_size(comm_, &size_);
  }
  // Freeing a communicator is collective, so a destructor must not: finalize() does, or the process ends anyway.
  ~MpiCommunicator() override = default;

  int rank() const noexcept override { return rank_; }
  int size() const noexcept override { return size_; }
  std::string_view transport() const noexcept override { return "mpi"; }

  std::unique_ptr<Communicator> split(int color, int key) override {
    MPI_Comm part;
    check_call(MPI_Comm_split(comm_, color, key, &part), "split", 0);
    return std::make_unique<MpiCommunicator>(part, observer_, abandoned_);
  }

  Work all_reduce(at::Tensor& tensor, Reduce op) override {
    require_reducible(tensor, transport());
    require_on_cpu(tensor, "all_reduce");
    RW_CHECK(tensor.numel() <= INT_MAX, CommError, "all_reduce of {} elements is above 2^31 - 1", tensor.numel());
    ++stats_.all_reduce_calls;
    stats_.all_reduce_bytes += tensor.nbytes();
    MPI_Request request;
    check_call(MPI_Iallreduce(MPI_IN_PLACE, tensor.data_ptr(), static_cast<int>(tensor.numel()),
                              mpi_type(tensor.scalar_type()), mpi_op(op), comm_, &request),
               "all_reduce", tensor.nbytes());
    return work(request, {tensor}, "all_reduce", tensor.nbytes());
  }

  Work all_gather(const at::Tensor& shard, at::Tensor& whole) override {
    require_gatherable(shard, whole, size_);
    require_on_cpu(shard, "all_gather");
    require_on_cpu(whole, "all_gather");
    ++stats_.all_gather_calls;
    stats_.all_gather_bytes += whole.nbytes() - shard.nbytes();
    const ByteBlocks blocks(shard.nbytes());
    const void* const sent = is_in_place(shard, whole, rank_) ? MPI_IN_PLACE : shard.const_data_ptr();
    MPI_Request request;
    check_call(MPI_Iallgather(sent, blocks.count(), blocks.type(), whole.data_ptr(), blocks.count(), blocks.type(),
                              comm_, &request),
               "all_gather", whole.nbytes());
    return work(request, {shard, whole}, "all_gather", whole.nbytes());
  }

  Work broadcast(at::Tensor& tensor, int root) override {
    require_broadcastable(tensor, root, size_);
    require_on_cpu(tensor, "broadcast");
    ++stats_.broadcast_calls;
    stats_.broadcast_bytes += tensor.nbytes();
    const ByteBlocks blocks(tensor.nbytes());
    MPI_Request request;
    check_call(MPI_Ibcast(tensor.data_ptr(), blocks.count(), blocks.type(), root, comm_, &request), "broadcast",
               tensor.nbytes());
    return work(request, {tensor}, "broadcast", tensor.nbytes());
  }

  void check() override {}
  void finalize() override { check_call(MPI_Comm_free(&comm_), "finalize", 0); }
  void abort() noexcept override {}  // ending the process is what ends an MPI operation: World::abort

 private:
  void check_call(int code, std::string_view operation, size_t bytes) const {
    if (code == MPI_SUCCESS) [[likely]]
      return;
    mpi_check(code, fmt::format("rank {} of {}: {} of {} bytes over MPI", rank_, size_, operation, bytes));
  }
  Work work(MPI_Request request, Tensors tensors, std::string_view name, size_t bytes) {
    const auto operation = std::make_shared<Operation>(request, std::move(tensors), abandoned_);
    return Work([this, operation, name, bytes] {
      if (observer_ != nullptr) observer_->wait_begins(name);
      const int code = operation->wait();
      if (observer_ != nullptr) observer_->wait_ends();
      check_call(code, name, bytes);
    });
  }

  MPI_Comm comm_;
  CommObserver* observer_;
  std::shared_ptr<Tensors> abandoned_;
  int rank_ = 0, size_ = 1;
};

}  // namespace

std::unique_ptr<Communicator> make_mpi_communicator(CommObserver* observer, std::shared_ptr<Tensors> abandoned) {
  MPI_Comm comm;
  mpi_check(MPI_Comm_dup(MPI_COMM_WORLD, &comm), "MPI_Comm_dup");
  return std::make_unique<MpiCommunicator>(comm, observer, std::move(abandoned));
}

}  // namespace rankwise
