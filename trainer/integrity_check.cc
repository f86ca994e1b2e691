#include "trainer/integrity_check.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <span>
#include <string>

#include "base/hash.h"

namespace rankwise {
namespace {

constexpr int64_t kColumns = 1024;

uint64_t hash_bytes(const at::Tensor& tensor, uint64_t seed) {
  const at::Tensor here = tensor.cpu();
  return hash64(std::span(static_cast<const std::byte*>(here.const_data_ptr()), here.nbytes()), seed);
}

constexpr std::string_view kWhereToLook = "look at the kernel log there, and on GPUs at `nvidia-smi -q -d ECC`";

// "rank(s) 2 on node-a, 3 on node-b". Collective.
std::string places_of(World& world, const std::vector<int>& ranks) {
  const auto hosts = world.gather_strings(world.host());
  std::vector<std::string> places;
  for (const int rank : ranks) places.push_back(fmt::format("{} on {}", rank, hosts[static_cast<size_t>(rank)]));
  return fmt::format("rank(s) {}", fmt::join(places, ", "));
}

// Where most ranks have the same, the others are wrong; else any may be.
std::string who_differs(World& world, const Dissent& dissent, const std::string& in_what) {
  const std::string who = places_of(world, dissent.different);
  if (2 * dissent.different.size() < static_cast<size_t>(world.size()))
    return fmt::format("{} hold other numbers than the others in {}", who, in_what);
  return fmt::format("{} hold other numbers than {} in {}, and which are right cannot be told", who,
                     places_of(world, {dissent.right}), in_what);
}

}  // namespace

uint64_t replica_digest(const at::Tensor& flat) {
  const int64_t a_word = 8 / static_cast<int64_t>(flat.element_size()), whole = flat.numel() / a_word;
  const int64_t rows = whole / kColumns, in_table = rows * kColumns;
  const at::Tensor words = flat.narrow(0, 0, whole * a_word).view(at::kLong);
  uint64_t digest = hash_bytes(words.narrow(0, 0, in_table).view({rows, kColumns}).sum(0), 0);
  digest = hash_bytes(words.narrow(0, in_table, whole - in_table), digest);
  return hash_bytes(flat.narrow(0, whole * a_word, flat.numel() - whole * a_word), digest);
}

void require_equal_replicas(World& world, int64_t step, const std::vector<Replica>& replicas) {
  if (world.size() == 1) return;
  std::vector<std::string> digests;
  for (const auto& replica : replicas) digests.push_back(fmt::format("{:016x}", replica_digest(replica.flat)));
  const Dissent dissent = world.compare(fmt::format("{}", fmt::join(digests, " ")));
  if (dissent.different.empty()) return;
  std::vector<std::string_view> names;
  for (size_t k = 0; k < replicas.size(); ++k) {
    if (!world.compare(digests[k]).different.empty()) names.push_back(replicas[k].name);
  }
  throw AgreedError(
      ExitCode::kCommunication,
      fmt::format("step {}: {}: a device, a memory or a wire changed a number ({}), or the ranks compute on different "
                  "kinds of device (train.integrity_check_steps: 0 allows that). Nothing was saved of it: start again, "
                  "on other hosts where this comes again, and the run goes on from its last checkpoint",
                  step, who_differs(world, dissent, fmt::format("{}", fmt::join(names, ", "))), kWhereToLook));
}

void require_unchanged_base(World& world, int64_t step, int64_t changed) {
  const auto counts = world.gather_strings(std::to_string(changed));
  std::vector<int> wrong;
  for (size_t r = 0; r < counts.size(); ++r) {
    if (counts[r] != "0") wrong.push_back(static_cast<int>(r));
  }
  if (wrong.empty()) return;
  throw AgreedError(
      ExitCode::kCommunication,
      fmt::format("step {}: the frozen base that {} hold is not what was loaded: a memory or a device "
                  "changed it ({}). Nothing was saved since: start again, on other hosts where this comes "
                  "again, and the run goes on from its last checkpoint",
                  step, places_of(world, wrong), kWhereToLook));
}

}  // namespace rankwise
