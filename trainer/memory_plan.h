// What a run will hold and move, known before it starts: bytes by kind on one rank, and the choices of
// parallel.base, parallel.resident_gib and parallel.activations where they are `auto`. Pure arithmetic on shapes.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "trainer/lora/target_matching.h"
#include "trainer/model/block.h"
#include "trainer/weights/model_config.h"
#include "trainer/weights/tensor_memory.h"

namespace rankwise {

// One arrangement of a run on its ranks.
struct Layout {
  int world_size = 1;
  int shard_group_size = 1;  // 1: replicate
  int prefetch = 2;
  int64_t resident_bytes = 0;
  ActivationPolicy activations = ActivationPolicy::kSave;
};

// What does not depend on the layout.
struct Workload {
  ModelConfig model;
  std::vector<MatchedModule> adapter;
  int64_t matrix_bytes = 4;   // an element of the frozen matrices
  int64_t element_bytes = 4;  // of activations, norm weights and biases
  int64_t master_bytes = 4;   // of adapter, gradients and moments
  int64_t tokens_per_micro_batch = 0;
  c10::Device device = c10::kCPU;
};

struct MemoryPlan {
  Layout layout;
  std::array<int64_t, kNumTensorKinds> bytes{};  // peak of each kind
  int64_t total_bytes = 0;                       // peak of the sum
  int64_t saved_activation_bytes = 0;            // kept between forward and backward, within the activations
  int64_t first_gathered_bytes = 0;              // received by one rank in the first micro-batch of a run
  int64_t steady_gathered_bytes = 0;             // in each later one
  int64_t reduced_bytes_per_step = 0;            // the adapter's gradients
};

MemoryPlan plan_memory(const Workload& workload, const Layout& layout);

// Bytes kept from forward for backward by one block, for `tokens` tokens.
int64_t saved_bytes_of_block(const Workload& workload, ActivationPolicy policy, int64_t tokens);

// The choices that the user left to us: empty means auto.
struct LayoutWishes {
  int world_size = 1;
  int ranks_per_host = 1;
  std::optional<int> shard_group_size;  // 1: replicate
  int prefetch = 2;
  std::optional<int64_t> resident_bytes;
  std::optional<ActivationPolicy> activations;
};

// The first arrangement that fits into available_bytes a rank, in this order: whole on every rank before sharded,
// activations kept before recomputed. Where none fits: the smallest, and total_bytes says so. On CPUs residency is
// never chosen unasked: gathering there is a copy within the host, and the memory is everybody's.
MemoryPlan choose_layout(const Workload& workload, const LayoutWishes& wishes, int64_t available_bytes);

const char* policy_name(ActivationPolicy policy);  // as in the configuration

// A table for people.
std::string describe(const MemoryPlan& plan, int64_t available_bytes);

// The plan beside what was measured, a line a kind: "activations  393.9 MiB planned, 381.2 MiB measured (-3.2 %)".
std::string compare(const MemoryPlan& plan, const TensorMemory& measured);

// Bytes that one of `ranks_per_host` processes may take: MemAvailable shared among them, less what libraries need.
int64_t available_host_bytes(int ranks_per_host);

}  // namespace rankwise
