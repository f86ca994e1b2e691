// The MPI session of this process: who am I, who is with me, and how do we part. mpi.h stays inside world.cc and
// mpi.cc.
#pragma once

#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "comms/communicator.h"

namespace rankwise {

// An error that every rank of the world knows of: rank 0 reports it, all leave with its code, nobody is killed.
struct AgreedError : Error {
  AgreedError(ExitCode code, const std::string& message) : Error(code, message) {}
};

// Whose text differs from that of most ranks, of which `right` is the first.
struct Dissent {
  int right = 0;
  std::vector<int> different;
};

// Construct once, in main, before any other thread starts. Without a launcher (no mpirun, no srun) MPI is not started
// at all and the world is this process alone. Throws CommError where the launcher says N ranks and MPI says 1 (a binary
// linked to another MPI than mpirun's).
class World {
 public:
  World();
  ~World();  // never collective: finalize() is the good way out, abort() the bad one
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  int rank() const noexcept { return rank_; }
  int size() const noexcept { return size_; }
  int local_rank() const noexcept { return local_rank_; }  // among the ranks of this host
  int local_size() const noexcept { return local_size_; }
  int num_hosts() const noexcept { return num_hosts_; }
  const std::string& host() const noexcept { return host_; }

  // Throws ConfigError (78) unless the world has this many ranks: `comms.expected_world_size`.
  void require_size(int expected) const;

  // Collective. A communicator of its own over all ranks; its waits are told to `observer` (may be null, not owned).
  std::unique_ptr<Communicator> make_communicator(CommObserver* observer);

  // For errors of libraries, from now on: a better message than what(), or nullopt. agree() tells it to the other
  // ranks.
  using Explanation = std::optional<std::string> (*)(const std::exception&);
  void explain_errors_with(Explanation explanation) noexcept { explanation_ = explanation; }
  std::string message_of(const std::exception& error) const;

  // What this rank does now, for the message of an error that is its own: "forward, step 3"; empty while nobody noted.
  void note_doing(std::string_view phase, int64_t step) noexcept;
  std::string doing() const;

  // Collective. Runs `part` on every rank; when it threw anywhere, every rank throws the same AgreedError: the message
  // of the lowest rank that failed, with that rank and host named unless all ranks failed alike.
  void agree(std::string_view what, const std::function<void()>& part);

  // Collective. Where as many ranks have one text as another, the lowest rank's is right.
  Dissent compare(std::string_view text);

  // Collective. Throws an AgreedError (78) that names `what` and the ranks whose text differs.
  void require_equal(std::string_view what, std::string_view text);

  // Collective. Every rank's text, in rank order.
  std::vector<std::string> gather_strings(std::string_view mine);

  // Collective. `bytes` of zeroed memory for each rank of this host, readable by all of them; by local rank. Valid
  // until finalize(). Empty without MPI.
  std::vector<void*> share_on_host(size_t bytes);

  // Told from now on of this rank's waits in the collective calls above; nullptr: nobody. Not owned.
  void observe(CommObserver* observer) noexcept { observer_ = observer; }

  void finalize();                                  // collective, ends MPI
  [[noreturn]] void abort(ExitCode code) noexcept;  // ends all ranks at once; the launcher reports the code

 private:
  bool mpi_ = false;
  bool finalized_ = false;
  int rank_ = 0, size_ = 1, local_rank_ = 0, local_size_ = 1, num_hosts_ = 1;
  std::string host_;
  CommObserver* observer_ = nullptr;
  Explanation explanation_ = nullptr;
  char phase_[32] = {};
  int64_t step_ = 0;
  struct Kept;
  std::unique_ptr<Kept> kept_;
};

}  // namespace rankwise
