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

// A span is a multiple of this, so that a 4 KiB leaf of the fingerprint (of a 16- or 32-bit file) never straddles two
// ranks, and every matrix is aligned to 512 bytes in any dtype.
inline constexpr int64_t kLeafElements = 2048;

// How elements lie in memory: one span after another. Matrices start, and shards are cut, where a span starts.
struct SpanFormat {
  int64_t elements;  // of a span: a multiple of kLeafElements
  int64_t bytes;     // that they take
};
constexpr SpanFormat plain_format(int64_t element_bytes) { return {kLeafElements, kLeafElements * element_bytes}; }

struct PlacedMatrix {
  std::string name;
  std::vector<int64_t> shape;
  int64_t begin;  // elements from the start of the unit's buffer
  int64_t end;
};

struct PlacedUnit {
  std::string name;
  UnitPool pool;
  SpanFormat format;
  std::vector<PlacedMatrix> matrices;
  int64_t num_elements;    // of the buffer: whole spans, as many for each rank of the shard group
  int64_t shard_elements;  // num_elements / group

  // Of so many elements, or before the element of this index: where a span starts.
  int64_t bytes_of(int64_t elements) const { return elements / format.elements * format.bytes; }
  int64_t num_bytes() const { return bytes_of(num_elements); }
  int64_t shard_bytes() const { return bytes_of(shard_elements); }
};

// What the matrices of blocks are stored and gathered as. Embedding and head are always plain.
enum class BaseFormat { kPlain, kNf4, kFloat8 };

// element_bytes: of what is plain.
SpanFormat span_format(BaseFormat format, UnitPool pool, int64_t element_bytes);

PlacedUnit place_unit(const UnitSpec& unit, int shard_group_size, const SpanFormat& format);

}  // namespace rankwise
