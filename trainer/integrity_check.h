// Whether a device, a memory or a wire has changed a number. Adapter and optimizer lie whole on every rank and are
// equal there in every bit, as all apply the same sums: one that differs is wrong. The base is what was loaded
// (trainer/weights/base_check.h).
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "comms/world.h"

namespace at {
class Tensor;
}

namespace rankwise {

// Of the bytes of a flat, contiguous buffer of float32 or float64, read where it lies: sums of 64-bit words, mod 2^64,
// over the rows of a table of 1,024 columns, hashed. One number that changed is seen. Waits for a device.
uint64_t replica_digest(const at::Tensor& flat);

struct Replica {
  std::string_view name;  // "the adapter"
  const at::Tensor& flat;
};

// Collective. Throws an AgreedError (71) that names the parts that differ and the ranks and hosts that have them, by
// majority; of two ranks, or two halves, nobody can tell which is right, and it says so. A wire that spoils what is
// passed on from rank to rank can make the wrong ones the majority.
void require_equal_replicas(World& world, int64_t step, const std::vector<Replica>& replicas);

// Collective. Throws an AgreedError (71) that names the ranks and hosts whose `changed` is not 0.
void require_unchanged_base(World& world, int64_t step, int64_t changed);

}  // namespace rankwise
