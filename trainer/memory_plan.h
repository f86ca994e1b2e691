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
#include "trainer/weights/unit_layout.h"

namespace rankwise {

// One arrangement of a run on its ranks.
struct Layout {
  int world_size = 1;
  int shard_group_size = 1;  // 1: replicate
  int prefetch = 2;
  int64_t resident_bytes = 0;
  ActivationPolicy activations = ActivationPolicy::kSave;
  bool cpu_offload = false;  // shards in host memory
};

// What does not depend on the layout.
struct Workload {
  ModelConfig model;
  std::vector<MatchedModule> adapter;
  BaseFormat base_format = BaseFormat::kPlain;
  int64_t matrix_bytes = 4;   // an element of the frozen matrices that are plain
  int64_t element_bytes = 4;  // of activations, norm weights and biases
  int64_t master_bytes = 4;   // of adapter, gradients and moments
  int64_t tokens_per_micro_batch = 0;
  bool drops = false;  // inputs of A
  c10::Device device = c10::kCPU;
};

// What a GPU holds beside our tensors and its driver's context (kContextBytes), as far as free memory at the time of
// planning does not show it yet. Estimates, to be held against `driver_gib` of `rankwise bench`.
inline constexpr int64_t kGpuLibraryBytes = int64_t{768} << 20;    // cuBLAS, cuDNN, kernels' code, allocator's rounding
inline constexpr int64_t kCommunicatorBytes = int64_t{512} << 20;  // NCCL's buffers, of each communicator
inline constexpr int64_t kContextBytes = int64_t{512} << 20;

// By how much a plan may be wrong: what automatic residency leaves free.
inline constexpr double kPlanAccuracy = 0.03;

// An arrangement that would cost less time but does not fit.
struct RejectedLayout {
  Layout layout;
  int64_t needed_bytes = 0;
};

struct MemoryPlan {
  Layout layout;
  BaseFormat base_format = BaseFormat::kPlain;   // the workload's
  std::array<int64_t, kNumTensorKinds> bytes{};  // peak of each kind
  int64_t total_bytes = 0;                       // peak of the sum
  int64_t overhead_bytes = 0;                    // beside it, of libraries on a GPU; 0 on CPUs
  int64_t host_bytes = 0;                        // pinned host memory: offloaded shards and inputs of blocks
  int64_t resident_bytes = 0;                    // of the total, what units that stay whole take beyond their shards
  int64_t saved_activation_bytes = 0;            // kept for backward, on the device: within the activations
  int64_t first_gathered_bytes = 0;              // received by one rank in the first micro-batch of a run
  int64_t steady_gathered_bytes = 0;             // in each later one
  int64_t reduced_bytes_per_step = 0;            // the adapter's gradients
  std::vector<RejectedLayout> rejected;          // in the order in which they were tried
};

MemoryPlan plan_memory(const Workload& workload, const Layout& layout);

// What must be free on a rank: tensors, graphs and libraries.
int64_t needed_bytes(const MemoryPlan& plan);

// Bytes kept from forward for backward by one block, for `tokens` tokens; its input too, wherever that is kept.
int64_t saved_bytes_of_block(const Workload& workload, ActivationPolicy policy, int64_t tokens);

// The choices that the user left to us: empty means auto.
struct LayoutWishes {
  int world_size = 1;
  int ranks_per_host = 1;
  std::optional<int> shard_group_size;  // 1: replicate
  int prefetch = 2;
  std::optional<int64_t> resident_bytes;
  std::optional<ActivationPolicy> activations;  // kOffload is taken on GPUs alone, and never chosen
  bool cpu_offload = false;                     // taken on GPUs alone
};

// The first arrangement that fits into available_bytes a rank, by what it is expected to cost: a gather hides behind
// the products and costs a few per cent of a step, activations made again a quarter (recompute_mlp) or more
// (recompute_block). So activations are kept before they are recomputed, and of each the base is whole on every rank
// before it is sharded. Where none fits: the smallest, and needed_bytes says so.
// A sharded or offloaded base on GPUs then keeps as many units resident as fit into what is left. On CPUs residency is
// never chosen unasked: gathering there is a copy within the host, and the memory is everybody's.
MemoryPlan choose_layout(const Workload& workload, const LayoutWishes& wishes, int64_t available_bytes);

const char* policy_name(ActivationPolicy policy);  // as in the configuration
const char* base_name(const Layout& layout);       // likewise: parallel.base

// A table for people, with a line for each arrangement that does not fit.
std::string describe(const MemoryPlan& plan, int64_t available_bytes);

// The plan beside what was measured, a line a kind: "activations  393.9 MiB planned, 381.2 MiB measured (-3.2 %)".
std::string compare(const MemoryPlan& plan, const TensorMemory& measured);

// Bytes that one of `ranks_per_host` processes may take: MemAvailable shared among them, less what libraries need.
int64_t available_host_bytes(int ranks_per_host);
// Bytes that a rank may take of a GPU of this size of which nothing is in use yet.
int64_t available_device_bytes(int64_t device_bytes);

}  // namespace rankwise
