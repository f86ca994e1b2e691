// Arithmetic against closed forms, and what choose_layout promises over many sizes: nothing here knows of a device.
#include "trainer/memory_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <utility>

#include "tests/support/expect_error.h"
#include "trainer/config_mapping.h"
#include "trainer/model/gpu_low_rank_mlp.h"
#include "trainer/step_benchmark.h"

namespace rankwise {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using enum ActivationPolicy;

constexpr int64_t kGib = int64_t{1} << 30;

Workload workload(const std::string& shape, c10::Device device, int64_t micro_batch = 4) {
  RunConfig config;
  config.model.dtype = ModelSection::Dtype::kBFloat16;
  config.train.per_device_train_batch_size = micro_batch;
  config.data.max_length = 2048;
  return workload_of(config, nullptr, named_shape(shape, std::nullopt), device);
}

LayoutWishes any_layout(int world_size) {
  LayoutWishes wishes;
  wishes.world_size = wishes.ranks_per_host = world_size;
  return wishes;
}

LayoutWishes sharded(int world_size, ActivationPolicy policy, int prefetch = 2) {
  LayoutWishes wishes = any_layout(world_size);
  wishes.shard_group_size = world_size;
  wishes.activations = policy;
  wishes.prefetch = prefetch;
  return wishes;
}

int64_t needed(const Workload& w, int world_size, int group, ActivationPolicy policy) {
  return needed_bytes(plan_memory(w, {world_size, group, 2, 0, policy}));
}

// Bytes of an untied Llama's units in bfloat16; all of them divide evenly by the groups of these tests.
struct UnitBytes {
  int64_t block, end, num_blocks;

  explicit UnitBytes(const ModelConfig& m)
      : block(2 * m.hidden_size *
              (2 * m.hidden_size + 2 * m.num_key_value_heads * m.head_dim + 3 * m.intermediate_size)),
        end(2 * m.hidden_size * m.vocab_size),
        num_blocks(m.num_hidden_layers) {}

  // docs/design.md, "Bytes": what is gathered in a micro-batch where this many units are resident, ends before blocks.
  int64_t received(int64_t ends, int64_t blocks, int group, int prefetch) const {
    const int64_t gathered_blocks = std::max<int64_t>(0, num_blocks - blocks - (prefetch + 1));
    return (2 * gathered_blocks * block + (ends == 0 ? 2 * end : 0)) / group * (group - 1);
  }
  // Beyond the shards, which are parts of the units that stay.
  int64_t resident(int64_t ends, int64_t blocks, int group) const {
    return (ends * end + blocks * block) / group * (group - 1);
  }
  // A pool that is wholly resident has no buffer.
  int64_t ring(int64_t ends, int64_t blocks, int prefetch) const {
    return (ends < 2 ? end : 0) + (blocks < num_blocks ? (prefetch + 1) * block : 0);
  }
};

struct ResidentCase {
  const char* shape;
  int world_size, prefetch;
  ActivationPolicy policy;
};

class ResidentUnits : public ::testing::TestWithParam<ResidentCase> {
 protected:
  const Workload w_ = workload(GetParam().shape, c10::kCUDA);
  const UnitBytes units_{w_.model};
  const LayoutWishes wishes_ = sharded(GetParam().world_size, GetParam().policy, GetParam().prefetch);
  const MemoryPlan none_ =
      plan_memory(w_, {GetParam().world_size, GetParam().world_size, GetParam().prefetch, 0, GetParam().policy});

  // Ends and blocks that fit, ends preferred: by trying every number of them.
  std::pair<int64_t, int64_t> most_that_fit(int64_t left) const {
    const auto [shape, group, prefetch, policy] = GetParam();
    left += units_.ring(0, 0, prefetch);
    for (int64_t ends = 2; ends >= 0; --ends) {
      for (int64_t blocks = units_.num_blocks; blocks >= 0; --blocks) {
        if (units_.resident(ends, blocks, group) + units_.ring(ends, blocks, prefetch) <= left) return {ends, blocks};
      }
    }
    return {};
  }
};

TEST_P(ResidentUnits, AsManyStayAsFitAndNoMoreIsTaken) {
  const int64_t all = units_.num_blocks * units_.block + 2 * units_.end;
  int64_t received_before = none_.steady_gathered_bytes;
  for (int64_t percent = 0; percent <= 110; percent += 3) {
    const auto available = static_cast<double>(needed_bytes(none_) + all / 100 * percent) / (1 - kPlanAccuracy);
    const int64_t usable = static_cast<int64_t>(available) - static_cast<int64_t>(available * kPlanAccuracy);
    const int64_t left = usable - needed_bytes(none_);
    const MemoryPlan plan = choose_layout(w_, wishes_, static_cast<int64_t>(available));
    ASSERT_LE(needed_bytes(plan), usable) << percent;
    const auto [ends, blocks] = most_that_fit(left);
    EXPECT_EQ(plan.resident_bytes, units_.resident(ends, blocks, GetParam().world_size)) << percent;
    EXPECT_EQ(plan.steady_gathered_bytes, units_.received(ends, blocks, GetParam().world_size, GetParam().prefetch))
        << percent;
    EXPECT_LE(plan.steady_gathered_bytes, received_before) << percent;
    received_before = plan.steady_gathered_bytes;
  }
  EXPECT_EQ(received_before, 0) << "with room for the whole base";
}

TEST_P(ResidentUnits, StoreAndPlanChooseTheSameUnits) {
  const MemoryPlan plan = choose_layout(w_, wishes_, needed_bytes(none_) + 7 * kGib);
  const MemoryPlan again = plan_memory(w_, plan.layout);
  EXPECT_GT(plan.resident_bytes, 0);
  EXPECT_EQ(again.resident_bytes, plan.resident_bytes);
  EXPECT_EQ(again.total_bytes, plan.total_bytes);
}

INSTANTIATE_TEST_SUITE_P(Shapes, ResidentUnits,
                         ::testing::Values(ResidentCase{"8b", 2, 2, kSave}, ResidentCase{"8b", 4, 0, kRecomputeBlock},
                                           ResidentCase{"70b", 2, 2, kRecomputeBlock},
                                           ResidentCase{"70b", 8, 1, kRecomputeMlp}),
                         [](const auto& test) {
                           return std::string(test.param.shape) + "_over_" + std::to_string(test.param.world_size);
                         });

TEST(MemoryPlan, OffloadedShardsLieInHostMemoryAndTheRingOnTheDevice) {
  const Workload w = workload("8b", c10::kCUDA);
  const UnitBytes units{w.model};
  for (const int ranks : {1, 2}) {
    const Layout there{ranks, ranks, 2, 0, kSave, /*cpu_offload=*/true};
    Layout here = there;
    here.cpu_offload = false;
    const MemoryPlan plan = plan_memory(w, there), kept = plan_memory(w, here);
    const auto shard = static_cast<size_t>(TensorKind::kBaseShard), ring = static_cast<size_t>(TensorKind::kGathered);
    EXPECT_EQ(plan.host_bytes, (units.num_blocks * units.block + 2 * units.end) / ranks);
    EXPECT_EQ(plan.bytes[shard], kept.bytes[shard] - plan.host_bytes);
    EXPECT_EQ(plan.bytes[ring], units.ring(0, 0, 2)) << "also of a group of one";
    EXPECT_EQ(plan.steady_gathered_bytes, kept.steady_gathered_bytes) << "of other ranks";
    EXPECT_EQ(kept.host_bytes, 0);
  }
}

TEST(MemoryPlan, WhatStaysWholeTakesNoMoreThanTheBaseOnEveryRank) {
  const Workload w = workload("8b", c10::kCUDA);
  const Layout everything{2, 2, 2, int64_t{1} << 50, kSave};
  Layout replicate = everything;
  replicate.shard_group_size = 1;
  EXPECT_EQ(plan_memory(w, everything).total_bytes, plan_memory(w, replicate).total_bytes);
  EXPECT_EQ(plan_memory(w, replicate).resident_bytes, 0) << "nothing is gathered";
  Layout from_host = everything;
  from_host.cpu_offload = true;
  const MemoryPlan plan = plan_memory(w, from_host);
  EXPECT_EQ(plan.total_bytes, plan_memory(w, replicate).total_bytes);
  EXPECT_EQ(plan.resident_bytes, 2 * plan.host_bytes) << "whole, beside half of it in host memory";
}

TEST(MemoryPlan, OffloadedInputsLieInHostMemoryButForTwo) {
  const auto activations = static_cast<size_t>(TensorKind::kActivations);
  for (const int64_t layers : {1, 2, 3, 32}) {
    Workload w = workload("8b", c10::kCUDA);
    w.model = named_shape("8b", layers);
    const int64_t leaving = std::max<int64_t>(0, layers - 2) * 4 * 2048 * 4096 * 2;
    const MemoryPlan kept = plan_memory(w, {1, 1, 2, 0, kRecomputeBlock}),
                     plan = plan_memory(w, {1, 1, 2, 0, kOffload});
    EXPECT_EQ(plan.host_bytes, leaving) << layers;
    EXPECT_EQ(plan.bytes[activations], kept.bytes[activations] - leaving);
    EXPECT_EQ(plan.saved_activation_bytes, kept.saved_activation_bytes - leaving);
    EXPECT_EQ(plan.total_bytes, kept.total_bytes - leaving);
    const MemoryPlan both = plan_memory(w, {1, 1, 2, 0, kOffload, /*cpu_offload=*/true});
    EXPECT_EQ(both.host_bytes, leaving + plan_memory(w, {1, 1, 2, 0, kSave, /*cpu_offload=*/true}).host_bytes);
  }
}

TEST(MemoryPlan, InputsAreOffloadedFromGpusWhereTheUserSaysSo) {
  ParallelSection section;
  section.activations = ParallelSection::Activations::kOffload;
  const LayoutWishes wishes = layout_wishes_of(section, 1, 1);
  const MemoryPlan plan = choose_layout(workload("8b", c10::kCUDA), wishes, 200 * kGib);
  EXPECT_EQ(plan.layout.activations, kOffload);
  const std::string text = describe(plan, 200 * kGib);
  EXPECT_THAT(text, HasSubstr(", activations offload, "));
  EXPECT_THAT(text, ::testing::ContainsRegex("\n  host memory +1920.0 MiB\n"));
  const MemoryPlan on_cpus = choose_layout(workload("8b", c10::kCPU), wishes, 200 * kGib);
  EXPECT_EQ(on_cpus.layout.activations, kRecomputeBlock);
  EXPECT_EQ(on_cpus.host_bytes, 0);
}

// Spans of 16,384 elements in 8,464 bytes: 8,192 of codes, 256 of maxima, a scale and an offset, aligned.
TEST(MemoryPlan, Nf4HoldsAndGathersTheBlocksInFourBits) {
  RunConfig config;
  config.model.dtype = ModelSection::Dtype::kBFloat16;
  config.model.base_dtype = ModelSection::BaseDtype::kNf4;
  config.data.max_length = 2048;
  const ModelConfig model = named_shape("8b", std::nullopt);
  const Workload w = workload_of(config, nullptr, model, c10::kCPU);
  const UnitBytes plain{model};
  const int64_t block = plain.block / 2 / 16'384 * 8464;
  const MemoryPlan plan = plan_memory(w, {2, 2, 2, 0, kRecomputeBlock});
  const int64_t norms = (2 * model.num_hidden_layers + 1) * model.hidden_size * 2;
  EXPECT_EQ(plan.bytes[static_cast<size_t>(TensorKind::kBaseShard)],
            (plain.num_blocks * block + 2 * plain.end) / 2 + norms);
  EXPECT_EQ(plan.bytes[static_cast<size_t>(TensorKind::kGathered)], 3 * block + plain.end);
  EXPECT_EQ(plan.steady_gathered_bytes, (2 * (plain.num_blocks - 3) * block + 2 * plain.end) / 2);
}

// While gate and up are multiplied with, both are there in bfloat16 and in the float32 that it is rounded from.
TEST(MemoryPlan, ExpandedWeightsCountAmongTheActivations) {
  Workload w = workload("8b", c10::kCPU, /*micro_batch=*/1);
  const Layout layout{1, 1, 2, 0, kRecomputeBlock};
  const auto activations = [&] { return plan_memory(w, layout).bytes[static_cast<size_t>(TensorKind::kActivations)]; };
  const int64_t before = activations();
  w.base_format = BaseFormat::kNf4;
  EXPECT_EQ(activations() - before, 2 * w.model.intermediate_size * w.model.hidden_size * (2 + 4));
  w = workload("8b", c10::kCUDA);
  for (auto& module : w.adapter) module.r = 32;  // composed
  const int64_t on_gpus = activations();
  w.base_format = BaseFormat::kNf4;
  EXPECT_EQ(activations() - on_gpus, 2 * w.model.intermediate_size * w.model.hidden_size * 2);
}

// SwiGLU's pass over gate and up has the gradient of h and its own parts beside it, or gate's and up's weights are
// expanded for their product: not both.
TEST(MemoryPlan, PassesThatAreSharedNeedLessBesideThem) {
  Workload w = workload("8b", c10::kCUDA);
  const int64_t tokens = w.tokens_per_micro_batch, row = tokens * 2, channels = 4 * w.model.hidden_size * row;
  const int64_t made_again = saved_bytes_of_block(w, kSave, tokens) - saved_bytes_of_block(w, kRecomputeMlp, tokens);
  const auto beside_saved = [&] {
    const MemoryPlan plan = plan_memory(w, {1, 1, 2, 0, kRecomputeMlp});
    return plan.bytes[static_cast<size_t>(TensorKind::kActivations)] - plan.saved_activation_bytes;
  };
  const int64_t dh = row * w.model.intermediate_size, parts = shared_pass_bytes(tokens, w.model.intermediate_size);
  EXPECT_EQ(beside_saved(), made_again + channels + dh + parts);
  w.base_format = BaseFormat::kNf4;
  const int64_t down = w.model.intermediate_size * w.model.hidden_size * 2;
  EXPECT_EQ(beside_saved(), made_again + channels + std::max(2 * down, dh + std::max(down, parts)));
}

// A byte an element, and a float32 for each output channel on every rank.
TEST(MemoryPlan, Float8HoldsAndGathersTheBlocksInBytes) {
  Workload w = workload("8b", c10::kCPU, /*micro_batch=*/1);
  const UnitBytes plain{w.model};
  const Layout layout{2, 2, 2, 0, kRecomputeBlock};
  const MemoryPlan same = plan_memory(w, layout);
  w.base_format = BaseFormat::kFloat8;
  const MemoryPlan plan = plan_memory(w, layout);
  const auto shard = static_cast<size_t>(TensorKind::kBaseShard), ring = static_cast<size_t>(TensorKind::kGathered);
  const int64_t channels = 2 * 4096 + 2 * 1024 + 2 * 14'336 + 4096;
  EXPECT_EQ(same.bytes[shard] - plan.bytes[shard], plain.num_blocks * (plain.block / 2 / 2 - channels * 4));
  EXPECT_EQ(plan.bytes[ring], 3 * plain.block / 2 + plain.end);
}

TEST(MemoryPlan, Float8OnGpusIsMultipliedInBfloat16) {
  RunConfig config;
  config.model.base_dtype = ModelSection::BaseDtype::kFloat8;
  config.model.dtype = ModelSection::Dtype::kFloat32;
  const ModelConfig model = named_shape("8b", std::nullopt);
  EXPECT_ERROR(workload_of(config, nullptr, model, c10::kCUDA), ConfigError, "model.base_dtype: float8", "float32");
  EXPECT_NO_THROW(workload_of(config, nullptr, model, c10::kCPU));
  config.model.dtype = ModelSection::Dtype::kAuto;
  EXPECT_NO_THROW(workload_of(config, nullptr, model, c10::kCUDA));
}

TEST(MemoryPlan, OnlyDevicesOffload) {
  LayoutWishes wishes;
  wishes.cpu_offload = true;
  EXPECT_FALSE(choose_layout(workload("8b", c10::kCPU), wishes, 200 * kGib).layout.cpu_offload);
  EXPECT_TRUE(choose_layout(workload("8b", c10::kCUDA), wishes, 200 * kGib).layout.cpu_offload);
}

TEST(MemoryPlan, ResidencyIsLeftToTheUserOnCpusAndWhereTheUserChose) {
  const auto wishes = sharded(2, kSave);
  EXPECT_EQ(choose_layout(workload("8b", c10::kCPU), wishes, 1000 * kGib).resident_bytes, 0);
  LayoutWishes none = wishes;
  none.resident_bytes = 0;
  EXPECT_EQ(choose_layout(workload("8b", c10::kCUDA), none, 1000 * kGib).resident_bytes, 0);
}

TEST(MemoryPlan, LibrariesCountOnGpusByCommunicator) {
  const auto overhead = [](c10::Device device, int world_size, int group) {
    return plan_memory(workload("8b", device), {.world_size = world_size, .shard_group_size = group}).overhead_bytes;
  };
  EXPECT_EQ(overhead(c10::kCPU, 8, 8), 0);
  EXPECT_EQ(overhead(c10::kCUDA, 1, 1), kGpuLibraryBytes);
  EXPECT_EQ(overhead(c10::kCUDA, 8, 1), kGpuLibraryBytes + kCommunicatorBytes);
  EXPECT_EQ(overhead(c10::kCUDA, 8, 8), kGpuLibraryBytes + 2 * kCommunicatorBytes);
}

// Eight bytes a token, layer and input.
TEST(MemoryPlan, DropoutsKeysAreActivations) {
  Workload w = workload("8b", c10::kCUDA);
  const int64_t without = plan_memory(w, {}).total_bytes;
  w.drops = true;
  EXPECT_EQ(plan_memory(w, {}).total_bytes - without, w.tokens_per_micro_batch * 32 * 4 * 8);
}

TEST(MemoryPlan, WhatFitsOnlyWithoutTheLibrariesDoesNotFit) {
  const Workload w = workload("8b", c10::kCUDA);
  const MemoryPlan kept = choose_layout(w, any_layout(1), 1000 * kGib);
  ASSERT_EQ(kept.layout.activations, kSave);
  EXPECT_EQ(choose_layout(w, any_layout(1), needed_bytes(kept)).layout.activations, kSave);
  EXPECT_EQ(choose_layout(w, any_layout(1), needed_bytes(kept) - 1).layout.activations, kRecomputeMlp);
}

struct Arrangement {
  int group;
  ActivationPolicy policy;
};

// Of all that fit, by hand: the first in the order of what they cost.
TEST(MemoryPlan, ShardingComesBeforeRecomputing) {
  const Arrangement by_cost[] = {{1, kSave},         {4, kSave},           {1, kRecomputeMlp},
                                 {4, kRecomputeMlp}, {1, kRecomputeBlock}, {4, kRecomputeBlock}};
  for (const c10::Device device : {c10::Device(c10::kCPU), c10::Device(c10::kCUDA)}) {
    const Workload w = workload("8b", device);
    for (int64_t available = 10 * kGib; available < 80 * kGib; available += kGib) {
      const auto expected = std::ranges::find_if(
          by_cost, [&](const Arrangement& a) { return needed(w, 4, a.group, a.policy) <= available; });
      if (expected == std::end(by_cost)) continue;
      const MemoryPlan plan = choose_layout(w, any_layout(4), available);
      EXPECT_EQ(plan.layout.shard_group_size, expected->group) << available / kGib;
      EXPECT_EQ(plan.layout.activations, expected->policy) << available / kGib;
      ASSERT_EQ(static_cast<std::ptrdiff_t>(plan.rejected.size()), expected - by_cost);
      for (size_t k = 0; k < plan.rejected.size(); ++k) {
        EXPECT_EQ(plan.rejected[k].layout.shard_group_size, by_cost[k].group);
        EXPECT_EQ(plan.rejected[k].layout.activations, by_cost[k].policy);
        EXPECT_GT(plan.rejected[k].needed_bytes, available);
      }
    }
  }
}

TEST(MemoryPlan, WhereNothingFitsTheSmallestIsTakenAndTheOthersAreNamed) {
  const MemoryPlan plan = choose_layout(workload("70b", c10::kCUDA), any_layout(2), kGib);
  EXPECT_EQ(plan.layout.shard_group_size, 2);
  EXPECT_EQ(plan.layout.activations, kRecomputeBlock);
  EXPECT_EQ(plan.rejected.size(), 5u);
  EXPECT_THAT(describe(plan, kGib), HasSubstr("warning: this does not fit"));
}

TEST(MemoryPlan, SaysWhyAndWhatIsHeldBesideTheTensors) {
  const Workload w = workload("8b", c10::kCUDA);
  const int64_t available = needed(w, 2, 2, kSave) + 3 * kGib;
  const std::string text = describe(choose_layout(w, any_layout(2), available), available);
  EXPECT_THAT(text,
              ::testing::StartsWith("plan: base shard over 2 rank(s) of 2, activations save, prefetch 2, resident "));
  EXPECT_THAT(text, ::testing::ContainsRegex("\n  replicate, save does not fit: needs [0-9.]+ GiB of [0-9.]+ GiB\n"));
  EXPECT_THAT(text, ::testing::ContainsRegex("\n  libraries +1792.0 MiB beside it, together +[0-9.]+ MiB\n"));
  EXPECT_EQ(text.find(" in "), text.npos) << "a base in the dtype that it is computed in";
  const std::string on_cpus = describe(choose_layout(workload("8b", c10::kCPU), any_layout(1), 1000 * kGib), kGib);
  EXPECT_THAT(on_cpus, Not(HasSubstr("libraries")));
}

TEST(MemoryPlan, NamesWhatTheBaseIsStoredInWhereThatIsNotWhatItIsComputedIn) {
  const auto first_words = [](BaseFormat format) {
    Workload w = workload("8b", c10::kCPU);
    w.base_format = format;
    const std::string text = describe(choose_layout(w, sharded(2, kSave), 1000 * kGib), 1000 * kGib);
    return text.substr(0, text.find(','));
  };
  EXPECT_EQ(first_words(BaseFormat::kNf4), "plan: base shard in nf4 over 2 rank(s) of 2");
  EXPECT_EQ(first_words(BaseFormat::kFloat8), "plan: base shard in float8 over 2 rank(s) of 2");
}

}  // namespace
}  // namespace rankwise
