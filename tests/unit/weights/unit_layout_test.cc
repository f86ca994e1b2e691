#include "trainer/weights/unit_layout.h"

#include <gtest/gtest.h>

namespace rankwise::testing {
namespace {

constexpr SpanFormat kFloats = plain_format(4);

UnitSpec unit(const std::vector<std::vector<int64_t>>& shapes) {
  UnitSpec spec{"block 0", UnitPool::kBlocks, {}};
  for (const auto& shape : shapes) spec.matrices.push_back({"matrix " + std::to_string(spec.matrices.size()), shape});
  return spec;
}

TEST(UnitLayout, StartsEachMatrixAtALeaf) {
  const auto placed = place_unit(unit({{64, 64}, {48, 48}, {1, 1}, {32, 64}}), 1, kFloats);
  ASSERT_EQ(placed.matrices.size(), 4u);
  EXPECT_EQ(placed.matrices[0].begin, 0);
  EXPECT_EQ(placed.matrices[0].end, 4096);
  EXPECT_EQ(placed.matrices[1].begin, 4096) << "two whole leaves: no gap";
  EXPECT_EQ(placed.matrices[1].end, 4096 + 48 * 48);
  EXPECT_EQ(placed.matrices[2].begin, 4096 + 4096) << "the next leaf";
  EXPECT_EQ(placed.matrices[3].begin, 4096 + 4096 + 2048);
  EXPECT_EQ(placed.num_elements, 4096 + 4096 + 2048 + 2048);
  EXPECT_EQ(placed.shard_elements, placed.num_elements);
}

TEST(UnitLayout, PadsTheEndAndNothingElseForTheShardGroup) {
  const auto spec = unit({{64, 64}, {48, 48}, {32, 64}});
  const auto whole = place_unit(spec, 1, kFloats);
  for (const int ranks : {2, 3, 4, 7, 64}) {
    const auto placed = place_unit(spec, ranks, kFloats);
    for (size_t m = 0; m < placed.matrices.size(); ++m) {
      EXPECT_EQ(placed.matrices[m].begin, whole.matrices[m].begin) << "a handle means the same at any world size";
      EXPECT_EQ(placed.matrices[m].end, whole.matrices[m].end);
    }
    EXPECT_EQ(placed.shard_elements * ranks, placed.num_elements);
    EXPECT_EQ(placed.shard_elements % kLeafElements, 0) << "shards are cut between leaves";
    EXPECT_GE(placed.num_elements, whole.num_elements);
    EXPECT_LT(placed.num_elements - whole.num_elements, kLeafElements * ranks);
  }
}

TEST(UnitLayout, CountsBytesInWholeSpans) {
  constexpr SpanFormat kPacked{3 * kLeafElements, 1000};
  const auto spec = unit({{64, 64}, {96, 64}, {1, 1}});
  const auto placed = place_unit(spec, 2, kPacked);
  EXPECT_EQ(placed.matrices[1].begin, kPacked.elements);
  EXPECT_EQ(placed.matrices[2].begin, 2 * kPacked.elements) << "a whole span: no gap";
  EXPECT_EQ(placed.num_elements, 4 * kPacked.elements) << "three, and one for the second rank";
  EXPECT_EQ(placed.bytes_of(placed.matrices[2].begin), 2000);
  EXPECT_EQ(placed.num_bytes(), 4000);
  EXPECT_EQ(placed.shard_bytes(), 2000);
  const auto floats = place_unit(spec, 2, kFloats);
  EXPECT_EQ(floats.num_bytes(), 4 * floats.num_elements);
}

TEST(UnitLayout, AUnitWithoutMatricesIsEmpty) { EXPECT_EQ(place_unit(unit({}), 4, kFloats).num_elements, 0); }

}  // namespace
}  // namespace rankwise::testing
