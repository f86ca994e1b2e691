#include "trainer/devices.h"

#include <ATen/Context.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "base/check.h"
#include "trainer/memory_plan.h"
#include "trainer/model/gpu_gemm.h"
#include "trainer/weights/tensor_memory.h"

namespace rankwise {
namespace {

using Wish = ParallelSection::Device;

// Without a driver the CUDA libraries need not be loaded to know that they find nothing.
int devices_for(Wish wish) {
  if (wish == Wish::kCpu) return 0;
  if (wish == Wish::kAuto && !std::filesystem::exists("/dev/nvidiactl")) return 0;
  return num_cuda_devices();
}

// Before the libraries read their environment.
void ask_for_equal_bits() {
  ::setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", /*overwrite=*/0);
  ::setenv("NCCL_ALGO", "Ring", /*overwrite=*/0);
  ::setenv("NCCL_PROTO", "Simple", /*overwrite=*/0);
  at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/false);
  at::globalContext().setDeterministicFillUninitializedMemory(false);  // we write before we read
}

}  // namespace

void require_dividing_groups(const World& world, int group_size) {
  RW_CHECK(world.size() % group_size == 0, ConfigError,
           "parallel.shard_group: groups of {} ranks do not divide {} ranks", group_size, world.size());
}

void require_products(BaseFormat format, std::optional<ComputeCapability> capability) {
  constexpr ComputeCapability kFloat8{9, 0};
  RW_CHECK(
      format != BaseFormat::kFloat8 || !capability || *capability >= kFloat8, ConfigError,
      "model.base_dtype: float8 is multiplied by GPUs of compute capability {}.{} or more, this one has {}.{}; set "
      "nf4 or same, or take other GPUs",
      kFloat8.major, kFloat8.minor, capability->major, capability->minor);
}

Devices::Devices(World& world, const DeviceOptions& options) : world_(world), options_(options) {
  const Wish wish = options.wish;
  const int here = devices_for(wish);
  bool enough = here >= world.local_size();
  for (const auto& text : world.gather_strings(enough ? "enough" : "")) enough = enough && !text.empty();
  if (!enough || wish == Wish::kCpu) {
    RW_CHECK(wish != Wish::kCuda || here >= world.local_size(), UnavailableError,
             "parallel.device: cuda, but {} has {} CUDA device(s) for {} rank(s); start at most one rank a device, and "
             "let every rank see all devices of its host (CUDA_VISIBLE_DEVICES)",
             world.host(), here, world.local_size());
    RW_CHECK(wish != Wish::kCuda, UnavailableError, "parallel.device: cuda, but another host has too few CUDA devices");
    return;
  }
  if (options.deterministic) ask_for_equal_bits();
  keep_gemm_choices_in(options.cache_dir);
  device_ = c10::Device(c10::kCUDA, static_cast<c10::DeviceIndex>(world.local_rank()));
  c10::impl::VirtualGuardImpl(c10::kCUDA).setDevice(device_);
  at::globalContext().lazyInitDevice(c10::kCUDA);
  count_device_memory(device_);
  gpu_uuid_ = device_uuid();
  capability_ = compute_capability();
}

int64_t Devices::available_bytes() const {
  int64_t least = device_.is_cuda() ? device_bytes().free : available_host_bytes(world_.local_size());
  for (const auto& text : world_.gather_strings(std::to_string(least)))
    least = std::min<int64_t>(least, std::stoll(text));
  return least;
}

std::unique_ptr<Communicator> Devices::all_ranks() const {
  if (world_.size() == 1) return make_local_communicator();
  if (device_.is_cpu()) return world_.make_communicator(options_.observer);
  const auto introduction = world_.make_communicator(nullptr);
  return make_nccl_communicator(*introduction, {.local_rank = world_.local_rank(),
                                                .local_size = world_.local_size(),
                                                .timeout = options_.timeout,
                                                .observer = options_.observer,
                                                .peer_copies = options_.peer_copies});
}

std::unique_ptr<Communicator> Devices::shard_group(int group_size) const {
  if (group_size == 1) return make_local_communicator();
  auto all = all_ranks();
  if (group_size == world_.size()) return all;
  return all->split(world_.rank() / group_size, world_.rank());
}

}  // namespace rankwise
