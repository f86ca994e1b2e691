// The device of this rank, and the communicators between the devices of the ranks.
#pragma once

#include <chrono>
#include <memory>

#include "comms/world.h"
#include "configs/run_config.h"
#include "trainer/weights/frozen_store.h"

namespace rankwise {

// Throws ConfigError if the world does not divide into groups of this size.
void require_dividing_groups(const World& world, int group_size);

class Devices {
 public:
  // `wish`: kAuto takes CUDA where this build and every rank's host have a device for each rank. Collective. Binds the
  // calling thread to the device. Throws UnavailableError where kCuda was asked for and a host has too few devices.
  // The observer may be null, is not owned and outlives every communicator.
  Devices(World& world, ParallelSection::Device wish, std::chrono::milliseconds timeout, CommObserver* observer);

  c10::Device device() const noexcept { return device_; }
  // Collective. What tensors may take on the rank that has the least: its device's free memory, or its share of the
  // host's.
  int64_t available_bytes() const;

  // Collective, for tensors on device(): NCCL, MPI, or local for one rank.
  std::unique_ptr<Communicator> all_ranks() const;
  // The group over which the base is sharded: neighbours in rank, `group_size` at a time.
  std::unique_ptr<Communicator> shard_group(int group_size) const;

 private:
  World& world_;
  std::chrono::milliseconds timeout_;
  CommObserver* observer_;
  c10::Device device_ = c10::kCPU;
};

}  // namespace rankwise
