// Under mpirun with 1, 2 and 4 ranks: the sharded base gives back what the files hold, at the price that was planned.
#include "trainer/weights/frozen_store.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <numeric>

#include "base/hash.h"
#include "tests/support/expect_error.h"
#include "tests/support/mpi_main.h"
#include "tests/support/random_model.h"
#include "tests/support/scratch_directory.h"
#include "trainer/model/decoder.h"
#include "trainer/weights/base_check.h"
#include "trainer/weights/tensor_memory.h"

namespace rankwise::testing {
namespace {

const bool kCounting = (install_tensor_memory(), true);  // before the first tensor

uint64_t sum_over_ranks(uint64_t mine) {
  uint64_t sum = 0;
  for (const auto& text : world().gather_strings(std::to_string(mine))) sum += std::stoull(text);
  return sum;
}

// A directory that rank 0 makes and all ranks read.
class SharedModel {
 public:
  SharedModel(const FrozenSpec& spec, const std::map<std::string, at::Tensor>& weights) : spec_(spec) {
    if (world().rank() == 0) write_model(scratch_.path(), weights);
    path_ = world().gather_strings(scratch_.path().native())[0];
  }
  ~SharedModel() { world().gather_strings("all have read"); }
  SharedModel(const SharedModel&) = delete;
  SharedModel& operator=(const SharedModel&) = delete;

  ModelFiles files() const { return ModelFiles(path_); }
  const FrozenSpec& spec() const { return spec_; }

 private:
  FrozenSpec spec_;
  ScratchDirectory scratch_;
  std::filesystem::path path_;
};

FrozenSpec spec_of(bool tied, int64_t num_layers = 7) {
  return Decoder::frozen_spec(random_model_config({.num_layers = num_layers, .tied = tied}));
}

std::unique_ptr<Communicator> all_ranks() { return world().make_communicator(nullptr); }

void visit(FrozenStore& store, const FrozenSpec& spec, Direction direction,
           const std::map<std::string, at::Tensor>& weights, at::ScalarType dtype) {
  store.travel(direction);
  for (const int unit : direction == Direction::kForward ? spec.forward_order : spec.backward_order) {
    for (const auto& matrix : spec.units[static_cast<size_t>(unit)].matrices) {
      EXPECT_TRUE(store.weight(store.find(matrix.name)).equal(weights.at(matrix.name).to(dtype))) << matrix.name;
    }
  }
}

void visit_both(FrozenStore& store, const FrozenSpec& spec, const std::map<std::string, at::Tensor>& weights,
                at::ScalarType dtype) {
  visit(store, spec, Direction::kForward, weights, dtype);
  visit(store, spec, Direction::kBackward, weights, dtype);
}

int64_t unit_bytes(const FrozenSpec& spec, size_t unit, int64_t width) {
  return place_unit(spec.units[unit], world().size(), plain_format(width)).num_bytes();
}

int64_t bytes_of_others(const FrozenSpec& spec, size_t unit, int64_t width) {
  return unit_bytes(spec, unit, width) / world().size() * (world().size() - 1);
}

// What a rank receives when each unit is gathered this often.
uint64_t received(const FrozenSpec& spec, const std::vector<int>& times, int64_t width) {
  int64_t bytes = 0;
  for (size_t u = 0; u < times.size(); ++u) bytes += times[u] * unit_bytes(spec, u, width);
  return static_cast<uint64_t>(bytes / world().size() * (world().size() - 1));
}

TEST(FrozenStore, GivesBackTheFilesWeightsInEveryDtype) {
  const auto spec = spec_of(/*tied=*/false);
  const auto weights = random_weights(spec);
  const SharedModel model(spec, weights);
  for (const auto dtype : {at::kFloat, at::kBFloat16, at::kDouble}) {
    FrozenStore store(model.files(), spec, all_ranks(), {.dtype = dtype, .prefetch = 2});
    for (int pass = 0; pass < 2; ++pass) visit_both(store, spec, weights, dtype);
    for (const auto& vector : spec.replicated) {
      EXPECT_TRUE(store.replicated(vector.name).equal(weights.at(vector.name).to(dtype))) << vector.name;
    }
    EXPECT_EQ(store.nonfinite_tensors(), 0);
  }
}

// Evaluation goes forward alone, and may stand before, between and after training passes.
TEST(FrozenStore, GivesTheRightWeightsInAnyOrderOfPasses) {
  const auto spec = spec_of(false);
  const auto weights = random_weights(spec);
  const SharedModel model(spec, weights);
  FrozenStore store(model.files(), spec, all_ranks(), {.dtype = at::kFloat, .prefetch = 3});
  for (const char pass : {'f', 'f', 't', 'f', 't', 't', 'f'}) {
    visit(store, spec, Direction::kForward, weights, at::kFloat);
    if (pass == 't') visit(store, spec, Direction::kBackward, weights, at::kFloat);
  }
}

TEST(FrozenStore, ReadsEachShardedByteOnceInTotalAndReplicatedOnesOnceARank) {
  const auto spec = spec_of(false);
  const auto weights = random_weights(spec);
  const SharedModel model(spec, weights);
  const ModelFiles files = model.files();
  const FrozenStore store(files, spec, all_ranks(), {.dtype = at::kBFloat16});
  uint64_t sharded = 0, replicated = 0;
  for (const auto& unit : spec.units) {
    for (const auto& matrix : unit.matrices) sharded += weights.at(matrix.name).nbytes();
  }
  for (const auto& vector : spec.replicated) replicated += weights.at(vector.name).nbytes();
  EXPECT_EQ(sharded + replicated, files.total_bytes());
  EXPECT_EQ(sum_over_ranks(files.bytes_read()), sharded + replicated * static_cast<uint64_t>(world().size()));
}

struct Case {
  bool tied;
  int prefetch;
  int resident_blocks;
};

class GatheredBytes : public ::testing::TestWithParam<Case> {};

// Steady state, of design.md section 5: a pass gathers each block that is not resident twice, save those still in the
// ring at its two turns; embedding and head once each, as they share one buffer; a tied table stays in it.
uint64_t steady_bytes(const FrozenSpec& spec, const std::vector<bool>& resident, int prefetch, bool tied,
                      int64_t width) {
  std::vector<int64_t> blocks;
  int64_t ends = 0;
  for (size_t u = 0; u < spec.units.size(); ++u) {
    if (resident[u]) continue;
    const bool is_block = spec.units[u].pool == UnitPool::kBlocks;
    if (is_block) blocks.push_back(unit_bytes(spec, u, width));
    if (!is_block && !tied) ends += unit_bytes(spec, u, width);
  }
  const auto gathered = std::max<int64_t>(0, static_cast<int64_t>(blocks.size()) - (prefetch + 1));
  const int64_t total = ends + 2 * gathered * (blocks.empty() ? 0 : blocks[0]);
  return static_cast<uint64_t>(total / world().size() * (world().size() - 1));
}

TEST_P(GatheredBytes, AreThoseOfThePlanAndOfTheClosedForm) {
  const auto [tied, prefetch, resident_blocks] = GetParam();
  const auto spec = spec_of(tied);
  const auto weights = random_weights(spec);
  const SharedModel model(spec, weights);
  const int64_t width = 4;
  const bool sharded = world().size() > 1;
  // One byte short of a further unit, be it an end (which come first) or a block.
  const int64_t of_end = bytes_of_others(spec, 0, width), of_block = bytes_of_others(spec, 1, width);
  const int64_t budget = resident_blocks == 0 ? 0 : of_end * (tied ? 1 : 2) + (resident_blocks + 1) * of_block - 1;

  std::vector<PlacedUnit> placed;
  for (const auto& unit : spec.units) placed.push_back(place_unit(unit, world().size(), plain_format(width)));
  const auto resident = choose_resident_units(placed, budget, /*cpu_offload=*/false);
  const auto num_resident = std::count(resident.begin(), resident.end(), true);
  EXPECT_EQ(num_resident, resident_blocks == 0 || !sharded ? 0 : resident_blocks + (tied ? 1 : 2));

  FrozenStore store(model.files(), spec, all_ranks(),
                    {.dtype = at::kFloat, .prefetch = prefetch, .resident_bytes = budget});
  const auto plan =
      GatherSchedule::count(spec, prefetch, sharded ? resident : std::vector<bool>(resident.size(), true));
  uint64_t expected = received(spec, std::vector<int>(resident.begin(), resident.end()), width);  // once, at the start
  EXPECT_EQ(store.gathered_bytes(), expected);
  for (int pass = 0; pass < 4; ++pass) {
    visit_both(store, spec, weights, at::kFloat);
    const uint64_t before =
        std::exchange(expected, expected + received(spec, pass == 0 ? plan.first : plan.steady, width));
    EXPECT_EQ(store.gathered_bytes(), expected) << "pass " << pass;
    if (pass == 0) continue;
    EXPECT_EQ(expected - before, steady_bytes(spec, resident, prefetch, tied, width)) << "pass " << pass;
  }
}

INSTANTIATE_TEST_SUITE_P(FrozenStore, GatheredBytes,
                         ::testing::Values(Case{false, 0, 0}, Case{false, 1, 0}, Case{false, 2, 0}, Case{false, 3, 0},
                                           Case{false, 4, 0}, Case{false, 5, 0}, Case{false, 6, 0}, Case{false, 9, 0},
                                           Case{true, 0, 0}, Case{true, 2, 0}, Case{true, 5, 0}, Case{false, 0, 2},
                                           Case{false, 2, 2}, Case{true, 2, 3}, Case{false, 1, 7}),
                         [](const auto& test) {
                           return std::string(test.param.tied ? "tied" : "untied") + "_prefetch_" +
                                  std::to_string(test.param.prefetch) + "_resident_" +
                                  std::to_string(test.param.resident_blocks);
                         });

TEST(FrozenStore, HoldsNoMoreThanItsShareAndItsRing) {
  const auto spec = spec_of(false);
  const auto weights = random_weights(spec);
  const SharedModel model(spec, weights);
  const auto before = tensor_memory();
  constexpr int kPrefetch = 2;
  int64_t base = 0, replicated = 0;
  for (size_t u = 0; u < spec.units.size(); ++u) base += unit_bytes(spec, u, 4);
  for (const auto& vector : spec.replicated) replicated += vector.shape[0] * 4;
  const auto grown = [&](TensorKind kind) {
    const auto k = static_cast<size_t>(kind);
    return tensor_memory().live_bytes[k] - before.live_bytes[k];
  };
  const bool sharded = world().size() > 1;
  const int64_t end = unit_bytes(spec, 0, 4), block = unit_bytes(spec, 1, 4);
  // Both ends and all blocks, both and one block, none: a shard is no copy of what is whole beside it.
  for (const int64_t resident : {int64_t{1} << 40, 2 * end + block, int64_t{0}}) {
    const bool both_ends = resident > 0, one_block = resident == 2 * end + block, all = both_ends && !one_block;
    const int64_t whole = all ? base : one_block ? 2 * end + block : 0;
    const int64_t ring = all ? 0 : (kPrefetch + 1) * block + (both_ends ? 0 : end);
    const int64_t budget = resident / world().size() * (world().size() - 1);
    FrozenStore store(model.files(), spec, all_ranks(),
                      {.dtype = at::kFloat, .prefetch = kPrefetch, .resident_bytes = budget});
    EXPECT_EQ(grown(TensorKind::kBaseShard), (sharded ? (base - whole) / world().size() : base) + replicated);
    EXPECT_EQ(grown(TensorKind::kGathered), sharded ? whole + ring : 0) << resident;
    visit_both(store, spec, weights, at::kFloat);  // waits for every gather: none keeps its tensors for the next turn
  }
}

// None of it is ever written, and a bit of it that changes is seen, in shards and in units that stay.
TEST(FrozenStore, WhatItHoldsStays) {
  const auto spec = spec_of(false);
  const auto weights = random_weights(spec);
  const SharedModel model(spec, weights);
  const int64_t ends_and_block = 2 * unit_bytes(spec, 0, 4) + unit_bytes(spec, 1, 4);
  const int64_t some = ends_and_block / world().size() * (world().size() - 1);
  FrozenStore store(model.files(), spec, all_ranks(), {.dtype = at::kFloat, .prefetch = 1, .resident_bytes = some});
  const auto held = store.held();
  int64_t bytes = 0;
  for (const auto& tensor : held) bytes += static_cast<int64_t>(tensor.nbytes());
  BaseCheck check(held);
  for (int pass = 0; pass < 2; ++pass) visit_both(store, spec, weights, at::kFloat);
  check.look_at_all();
  EXPECT_EQ(check.changed(), 0);
  int64_t wanted = ends_and_block;
  for (size_t u = 2; u + 1 < spec.units.size(); ++u) wanted += unit_bytes(spec, u, 4) / world().size();
  for (const auto& vector : spec.replicated) wanted += vector.shape[0] * 4;
  EXPECT_EQ(bytes, wanted);
  for (const auto& tensor : held) tensor.view({-1}).view(at::kByte)[-1].bitwise_xor_(0x80);
  check.look_at_all();
  EXPECT_EQ(check.changed(), static_cast<int64_t>(held.size()));
}

// Each 4 KiB leaf of each tensor as stored, once.
uint64_t fingerprint_of(const std::map<std::string, at::Tensor>& weights) {
  uint64_t sum = 0;
  for (const auto& [name, tensor] : weights) {
    const std::span bytes(static_cast<const std::byte*>(tensor.const_data_ptr()), tensor.nbytes());
    for (size_t begin = 0, leaf = 0; begin < bytes.size(); begin += 4096, ++leaf) {
      sum += hash64(bytes.subspan(begin, std::min<size_t>(4096, bytes.size() - begin)), hash64(name, leaf));
    }
  }
  return sum;
}

struct Packed {
  BaseFormat format;
  double rounding;        // relative, at most, of the whole of a matrix
  int64_t channel_bytes;  // that every rank has
};

class PackedBase : public ::testing::TestWithParam<Packed> {};

// Whatever the ranks' parts, of a matrix and of a unit. The last rank may have nothing but padding.
TEST_P(PackedBase, IsTheSameAtEveryWorldSize) {
  const auto spec = spec_of(false);
  const auto weights = random_weights(spec);
  const SharedModel model(spec, weights);
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    const FrozenStoreOptions options{.dtype = dtype, .format = GetParam().format};
    FrozenStore sharded(model.files(), spec, all_ranks(), options);
    FrozenStore alone(model.files(), spec, make_local_communicator(), options);
    std::map<std::string, at::Tensor> expanded;
    for (const auto& unit : spec.units) {
      for (const auto& matrix : unit.matrices) {
        const at::Tensor stored = weights.at(matrix.name).to(at::kFloat);
        const at::Tensor kept = expanded[matrix.name] = alone.weight(alone.find(matrix.name)).clone();
        if (unit.pool == UnitPool::kEnds) {
          EXPECT_TRUE(kept.equal(stored.to(dtype))) << matrix.name;
        } else {
          const double rounding = (kept - stored).norm().item<double>() / stored.norm().item<double>();
          EXPECT_LT(rounding, GetParam().rounding) << matrix.name;
          EXPECT_GT(rounding, GetParam().rounding / 4) << matrix.name;
        }
      }
    }
    for (int pass = 0; pass < 2; ++pass) visit_both(sharded, spec, expanded, dtype);
    EXPECT_EQ(sharded.fingerprint(), fingerprint_of(weights));
  }
}

TEST_P(PackedBase, IsHeldAndGatheredInItsOwnSize) {
  const auto spec = spec_of(true);
  const SharedModel model(spec, random_weights(spec));
  const auto before = tensor_memory();
  const auto [format, rounding, channel_bytes] = GetParam();
  FrozenStore store(model.files(), spec, all_ranks(), {.dtype = at::kFloat, .format = format, .prefetch = 1});
  const auto bytes = [&](size_t unit) {
    const auto& wanted = spec.units[unit];
    return place_unit(wanted, world().size(), span_format(GetParam().format, wanted.pool, 4)).num_bytes();
  };
  int64_t base = 0, replicated = 0;
  for (size_t u = 0; u < spec.units.size(); ++u) {
    base += bytes(u);
    if (spec.units[u].pool == UnitPool::kEnds) continue;
    for (const auto& matrix : spec.units[u].matrices) replicated += matrix.shape[0] * channel_bytes;
  }
  for (const auto& vector : spec.replicated) replicated += vector.shape[0] * 4;
  const auto grown = [&](TensorKind kind) {
    const auto k = static_cast<size_t>(kind);
    return tensor_memory().live_bytes[k] - before.live_bytes[k];
  };
  EXPECT_EQ(grown(TensorKind::kBaseShard), base / world().size() + replicated);
  EXPECT_EQ(grown(TensorKind::kGathered), world().size() == 1 ? 0 : 2 * bytes(1) + bytes(0));
}

INSTANTIATE_TEST_SUITE_P(FrozenStore, PackedBase,
                         ::testing::Values(Packed{BaseFormat::kNf4, 0.12, 0}, Packed{BaseFormat::kFloat8, 0.04, 4}),
                         [](const auto& test) { return test.param.format == BaseFormat::kNf4 ? "nf4" : "float8"; });

TEST(FrozenStore, Float8WeightsAreCodesAndTheScalesOfTheirRows) {
  const auto spec = spec_of(false);
  const SharedModel model(spec, random_weights(spec));
  FrozenStore store(model.files(), spec, all_ranks(), {.dtype = at::kFloat, .format = BaseFormat::kFloat8});
  for (const auto& matrix : spec.units[2].matrices) {
    const WeightHandle handle = store.find(matrix.name);
    const auto [codes_OI, scales_O] = store.float8_weight(handle);
    const at::Tensor numbers = codes_OI.view(at::kFloat8_e4m3fn).to(at::kFloat) * scales_O.unsqueeze(1);
    EXPECT_TRUE(numbers.equal(store.weight(handle))) << matrix.name;
  }
  EXPECT_FALSE(store.multiplies_float8()) << "on CPUs";
  EXPECT_ERROR(store.float8_weight(store.find("lm_head.weight")), Error, "head");
}

TEST(FrozenStore, HasTheSameFingerprintAtEveryWorldSizeAndDtype) {
  const auto spec = spec_of(true);
  auto weights = random_weights(spec);
  const uint64_t expected = fingerprint_of(weights);
  {
    const SharedModel model(spec, weights);
    for (const auto dtype : {at::kFloat, at::kBFloat16, at::kDouble}) {
      EXPECT_EQ(FrozenStore(model.files(), spec, all_ranks(), {.dtype = dtype}).fingerprint(), expected);
      EXPECT_EQ(FrozenStore(model.files(), spec, make_local_communicator(), {.dtype = dtype}).fingerprint(), expected);
    }
  }
  auto* last = static_cast<uint8_t*>(weights.at("model.layers.6.mlp.down_proj.weight").data_ptr());
  last[101] ^= 1;
  const SharedModel damaged(spec, weights);
  EXPECT_NE(FrozenStore(damaged.files(), spec, all_ranks(), {.dtype = at::kFloat}).fingerprint(), expected);
}

TEST(FrozenStore, CountsTensorsWithAValueThatIsNoNumber) {
  const auto spec = spec_of(false, 2);
  auto weights = random_weights(spec);
  weights.at("model.layers.1.self_attn.o_proj.weight")
      .view({-1})
      .select(0, 7)
      .fill_(std::numeric_limits<float>::quiet_NaN());
  const SharedModel model(spec, weights);
  const FrozenStore store(model.files(), spec, all_ranks(), {.dtype = at::kFloat});
  EXPECT_EQ(sum_over_ranks(static_cast<uint64_t>(store.nonfinite_tensors())), 1u) << "one rank holds that element";
}

TEST(FrozenStore, WhatTheFilesLackOrShapeOtherwiseIsAnErrorOnEveryRank) {
  const auto spec = spec_of(false, 2);
  auto weights = random_weights(spec);
  weights.erase("model.layers.1.mlp.up_proj.weight");
  {
    const SharedModel model(spec, weights);
    EXPECT_ERROR(FrozenStore(model.files(), spec, all_ranks(), {}), DataError, "model.layers.1.mlp.up_proj.weight");
  }
  weights["model.layers.1.mlp.up_proj.weight"] = at::zeros({80, 47});
  const SharedModel model(spec, weights);
  EXPECT_ERROR(FrozenStore(model.files(), spec, all_ranks(), {}), DataError, "model.layers.1.mlp.up_proj.weight",
               "[80, 47]", "[80, 48]");
}

TEST(FrozenStore, JoinsNeighboursThatLieWithoutAGap) {
  // 64 x 64 is two leaves: k follows q at once. 48 x 48 is not a whole number of them.
  const FrozenSpec spec{
      {{"block", UnitPool::kBlocks, {{"q", {64, 64}}, {"k", {32, 64}}, {"x", {48, 48}}, {"y", {48, 48}}}}},
      {0},
      {0},
      {}};
  const auto weights = random_weights(spec);
  const SharedModel model(spec, weights);
  FrozenStore store(model.files(), spec, all_ranks(), {.dtype = at::kFloat});
  const auto joined = store.find_adjacent({"q", "k"});
  ASSERT_TRUE(joined.has_value());
  EXPECT_TRUE(store.weight(*joined).equal(at::cat({weights.at("q").to(at::kFloat), weights.at("k").to(at::kFloat)})));
  EXPECT_FALSE(store.find_adjacent({"x", "y"}).has_value());
  EXPECT_FALSE(store.find_adjacent({"k", "q"}).has_value());
  EXPECT_ERROR(store.find("z"), Error, "z");
}

}  // namespace
}  // namespace rankwise::testing
