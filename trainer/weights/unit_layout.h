// Where each frozen matrix lies. A unit is the smallest thing that is gathered (the embedding, one block, the head):
// its matrices follow one another in one flat buffer, which is cut into equal shards, one a rank of the shard group.
// Pure arithmetic: no torch, no file.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace rankwise {

struct MatrixSpec {
  std::string name;            // as in the model's files
  std::vector<int64_t> shape;  // [out, in]
};

// Buffers are of one size within a pool, so that a ring of them serves all its units.
enum class UnitPool { kEnds, kBlocks };

struct UnitSpec {
  std::string name;  // "embedding", "block 3", "head"
  UnitPool pool;
  std::vector<MatrixSpec> matrices;  // in order; neighbours that one GEMM may serve together are adjacent
};

// What the model wants frozen: the units, the order in which a forward pass visits them (a tied table is visited
// twice), and the small tensors (norm weights, biases) that every rank keeps whole.
struct FrozenSpec {
  std::vector<UnitSpec> units;
  std::vector<int> forward_order;   // indices of units
  std::vector<int> backward_order;  // of the units that the backward pass multiplies with
  std::vector<MatrixSpec> replicated;
};

struct PlacedMatrix {
  std::string name;
  std::vector<int64_t> shape;
  int64_t begin;  // elements from the start of the unit's buffer
  int64_t end;
};

struct PlacedUnit {
  std::string name;
  UnitPool pool;
  std::vector<PlacedMatrix> matrices;
  int64_t num_elements;    // of the buffer: a multiple of the shard group's size times kLeafElements
  int64_t shard_elements;  // num_elements / group
};

// Matrices start, and shards are cut, at multiples of this, so that a 4 KiB leaf of the fingerprint (of a 16- or 32-bit
// file) never straddles two ranks, and every matrix is aligned to 512 bytes in any dtype.
inline constexpr int64_t kLeafElements = 2048;

PlacedUnit place_unit(const UnitSpec& unit, int shard_group_size);

}  // namespace rankwise
