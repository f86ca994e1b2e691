// The device of this rank, and the communicators between the devices of the ranks.
#pragma once

#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "comms/cuda.h"
#include "comms/world.h"
#include "configs/run_config.h"
#include "trainer/weights/frozen_store.h"
#include "trainer/weights/unit_layout.h"

namespace rankwise {

// Throws ConfigError if the world does not divide into groups of this size.
void require_dividing_groups(const World& world, int group_size);

// Throws ConfigError where a GPU of this capability does not multiply in the format of the base. CPUs, which have none,
// multiply in all of them.
void require_products(BaseFormat format, std::optional<ComputeCapability> capability);

struct DeviceOptions {
  ParallelSection::Device wish = ParallelSection::Device::kAuto;
  std::chrono::milliseconds timeout{600'000};  // of one operation between devices
  bool peer_copies = true;                     // gathers between GPUs of one host without NCCL
  // On CUDA: the same bits from the same run, by kernels and an order of sums that do not depend on timing. For the
  // whole process, from now on. What the user set of CUBLAS_WORKSPACE_CONFIG, NCCL_ALGO and NCCL_PROTO stays.
  bool deterministic = false;
  // On CUDA: where choices of GEMM algorithms are kept from run to run (trainer/model/gpu_gemm.h). Empty: nowhere.
  std::filesystem::path cache_dir = {};
  CommObserver* observer = nullptr;  // may be null; not owned, outlives every communicator
};

class Devices {
 public:
  // Wish kAuto takes CUDA where this build and every rank's host have a device for each rank. Collective. Binds the
  // calling thread to the device. Throws UnavailableError where kCuda was asked for and a host has too few devices.
  Devices(World& world, const DeviceOptions& options);

  c10::Device device() const noexcept { return device_; }
  const std::string& gpu_uuid() const noexcept { return gpu_uuid_; }                    // "GPU-..."; empty on a CPU
  std::optional<ComputeCapability> capability() const noexcept { return capability_; }  // empty on a CPU
  // Collective. What tensors may take on the rank that has the least: its device's free memory, or its share of the
  // host's.
  int64_t available_bytes() const;

  // Collective, for tensors on device(): NCCL, MPI, or local for one rank.
  std::unique_ptr<Communicator> all_ranks() const;
  // The group over which the base is sharded: neighbours in rank, `group_size` at a time.
  std::unique_ptr<Communicator> shard_group(int group_size) const;

 private:
  World& world_;
  DeviceOptions options_;
  c10::Device device_ = c10::kCPU;
  std::string gpu_uuid_;
  std::optional<ComputeCapability> capability_;
};

}  // namespace rankwise
