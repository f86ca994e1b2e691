#include "comms/world.h"

#include <ATen/core/Tensor.h>
#include <mpi.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "base/check.h"
#include "base/hash.h"
#include "base/host_name.h"
#include "comms/mpi.h"

namespace rankwise {
namespace {

// The number of ranks that a launcher promised through the environment; 0 without a launcher.
int launched_size() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"}) {
    if (const char* value = std::getenv(name)) return std::atoi(value);
  }
  if (std::getenv("PMIX_RANK") == nullptr) return 0;
  const char* tasks = std::getenv("SLURM_NTASKS");
  return tasks != nullptr ? std::atoi(tasks) : 1;
}

class ObservedWait {
 public:
  ObservedWait(CommObserver* observer, std::string_view operation) noexcept : observer_(observer) {
    if (observer_ != nullptr) observer_->wait_begins(operation);
  }
  ~ObservedWait() {
    if (observer_ != nullptr) observer_->wait_ends();
  }
  ObservedWait(const ObservedWait&) = delete;
  ObservedWait& operator=(const ObservedWait&) = delete;

 private:
  CommObserver* observer_;
};

int failed_ranks(const std::vector<int>& codes) {
  return static_cast<int>(std::count_if(codes.begin(), codes.end(), [](int code) { return code != 0; }));
}

// The first rank of those whose text most ranks have.
int first_with_most(const std::vector<std::string>& texts) {
  const auto votes = [&](const std::string& text) { return std::ranges::count(texts, text); };
  return static_cast<int>(std::ranges::max_element(texts, {}, votes) - texts.begin());
}

}  // namespace

// What lives as long as MPI does.
struct World::Kept {
  std::vector<MPI_Win> windows;  // memory of the host's ranks; MPI wants them freed before it ends
  std::shared_ptr<std::vector<at::Tensor>> abandoned = std::make_shared<std::vector<at::Tensor>>();
};

World::World() : host_(host_name()), kept_(std::make_unique<Kept>()) {
  const int launched = launched_size();
  if (launched == 0) return;
  mpi_ = true;
  int provided = 0;
  mpi_check(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided), "MPI_Init_thread");
  RW_CHECK(provided >= MPI_THREAD_SERIALIZED, CommError,
           "MPI offers thread level {}, {} is needed (MPI_THREAD_SERIALIZED)", provided, MPI_THREAD_SERIALIZED);
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
  MPI_Comm_size(MPI_COMM_WORLD, &size_);
  RW_CHECK(size_ == launched, CommError,
           "the launcher started {} ranks but MPI sees {}: this binary is linked to another MPI than the launcher's; "
           "start it with the mpirun of the same Open MPI",
           launched, size_);
  MPI_Comm on_host;
  MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &on_host);
  MPI_Comm_rank(on_host, &local_rank_);
  MPI_Comm_size(on_host, &local_size_);
  MPI_Comm_free(&on_host);
  const int leads_host = local_rank_ == 0 ? 1 : 0;
  MPI_Allreduce(&leads_host, &num_hosts_, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
}

World::~World() = default;

void World::require_size(int expected) const {
  RW_CHECK(size_ == expected, ConfigError,
           "comms.expected_world_size is {} but {} rank(s) run; correct the setting or the launcher's -np", expected,
           size_);
}

std::unique_ptr<Communicator> World::make_communicator(CommObserver* observer) {
  return mpi_ ? make_mpi_communicator(observer, kept_->abandoned) : make_local_communicator();
}

std::vector<std::string> World::gather_strings(std::string_view mine) {
  if (!mpi_) return {std::string(mine)};
  const ObservedWait wait(observer_, "an exchange of text");
  const int bytes = static_cast<int>(mine.size());
  std::vector<int> counts(size_), starts(size_);
  mpi_check(MPI_Allgather(&bytes, 1, MPI_INT, counts.data(), 1, MPI_INT, MPI_COMM_WORLD), "MPI_Allgather");
  int total = 0;
  for (int r = 0; r < size_; ++r) {
    starts[r] = total;
    total += counts[r];
  }
  std::string all(static_cast<size_t>(total), '\0');
  mpi_check(
      MPI_Allgatherv(mine.data(), bytes, MPI_CHAR, all.data(), counts.data(), starts.data(), MPI_CHAR, MPI_COMM_WORLD),
      "MPI_Allgatherv");
  std::vector<std::string> texts;
  for (int r = 0; r < size_; ++r) texts.push_back(all.substr(starts[r], counts[r]));
  return texts;
}

std::string World::message_of(const std::exception& error) const {
  return (explanation_ ? explanation_(error) : std::nullopt).value_or(error.what());
}

void World::note_doing(std::string_view phase, int64_t step) noexcept {
  phase_[phase.copy(phase_, sizeof(phase_) - 1)] = '\0';
  step_ = step;
}

std::string World::doing() const {
  const std::string_view phase = phase_;
  return phase.empty() ? "" : fmt::format("{}, step {}", phase, step_);
}

void World::agree(std::string_view what, const std::function<void()>& part) {
  int code = 0;
  std::string message;
  try {
    part();
  } catch (const Error& error) {
    code = static_cast<int>(error.code());
    message = error.what();
  } catch (const std::exception& error) {
    code = static_cast<int>(ExitCode::kInternal);
    message = fmt::format("{}: {}", what, message_of(error));
  }
  std::vector<int> codes(size_, code);
  if (mpi_) {
    const ObservedWait wait(observer_, fmt::format("agreement on {}", what));
    mpi_check(MPI_Allgather(&code, 1, MPI_INT, codes.data(), 1, MPI_INT, MPI_COMM_WORLD), "MPI_Allgather");
  }
  const int failed = failed_ranks(codes);
  if (failed == 0) return;
  const auto messages = gather_strings(message);
  const auto first = std::find_if(codes.begin(), codes.end(), [](int c) { return c != 0; }) - codes.begin();
  const bool alike =
      failed == size_ && std::all_of(messages.begin(), messages.end(), [&](const auto& m) { return m == messages[0]; });
  const auto hosts = gather_strings(host_);
  throw AgreedError(static_cast<ExitCode>(codes[first]),
                    alike ? messages[0] : fmt::format("rank {} on {}: {}", first, hosts[first], messages[first]));
}

Dissent World::compare(std::string_view text) {
  const auto hashes = gather_strings(fmt::format("{:016x}", hash64(text)));
  Dissent dissent{.right = first_with_most(hashes), .different = {}};
  for (int r = 0; r < size_; ++r) {
    if (hashes[r] != hashes[dissent.right]) dissent.different.push_back(r);
  }
  return dissent;
}

void World::require_equal(std::string_view what, std::string_view text) {
  const auto [right, different] = compare(text);
  if (different.empty()) return;
  throw AgreedError(ExitCode::kBadConfig,
                    fmt::format("{} of rank(s) {} differs from rank {}'s; give every rank the same", what,
                                fmt::join(different, ", "), right));
}

std::vector<void*> World::share_on_host(size_t bytes) {
  if (!mpi_) return {};
  MPI_Comm on_host;
  mpi_check(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &on_host),
            "MPI_Comm_split_type");
  void* mine = nullptr;
  MPI_Win& window = kept_->windows.emplace_back();
  mpi_check(MPI_Win_allocate_shared(static_cast<MPI_Aint>(bytes), 1, MPI_INFO_NULL, on_host, &mine, &window),
            "MPI_Win_allocate_shared");
  std::memset(mine, 0, bytes);
  std::vector<void*> parts(static_cast<size_t>(local_size_));
  for (int r = 0; r < local_size_; ++r) {
    MPI_Aint part_bytes = 0;
    int unit = 0;
    mpi_check(MPI_Win_shared_query(window, r, &part_bytes, &unit, &parts[static_cast<size_t>(r)]),
              "MPI_Win_shared_query");
  }
  mpi_check(MPI_Barrier(on_host), "MPI_Barrier");
  mpi_check(MPI_Comm_free(&on_host), "MPI_Comm_free");
  return parts;
}

void World::finalize() {
  if (mpi_ && !finalized_) {
    for (MPI_Win& window : kept_->windows) mpi_check(MPI_Win_free(&window), "MPI_Win_free");
    kept_->windows.clear();
    mpi_check(MPI_Finalize(), "MPI_Finalize");
  }
  finalized_ = true;
}

void World::abort(ExitCode code) noexcept {
  std::fflush(nullptr);
  // Not MPI_Abort: it may block when another thread is inside MPI. A rank that leaves without MPI_Finalize makes the
  // launcher end all the others and report this rank's code.
  ::_exit(static_cast<int>(code));
}

}  // namespace rankwise
