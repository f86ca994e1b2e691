#include "trainer/weights/unit_loader.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "trainer/kernels/nf4.h"
#include "trainer/weights/float8.h"
#include "trainer/weights/nf4.h"
#include "trainer/weights/tensor_memory.h"

namespace rankwise {
namespace {

// What a rank has of a matrix.
struct Part {
  size_t matrix;
  int64_t begin, count;  // elements of the matrix
  int64_t place;         // of the first in the shard
};

std::vector<Part> parts_of(const PlacedUnit& unit, int rank) {
  const int64_t shard_begin = unit.shard_elements * rank, shard_end = shard_begin + unit.shard_elements;
  std::vector<Part> parts;
  for (size_t m = 0; m < unit.matrices.size(); ++m) {
    const auto& matrix = unit.matrices[m];
    const int64_t begin = std::max(shard_begin, matrix.begin), end = std::min(shard_end, matrix.end);
    if (begin < end) parts.push_back({m, begin - matrix.begin, end - begin, begin - shard_begin});
  }
  return parts;
}

void require_all(const WeightSource& source, const PlacedUnit& unit) {
  for (const auto& matrix : unit.matrices) source.require(matrix.name, matrix.shape);
}

at::Tensor load_values(WeightSource& source, const PlacedUnit& unit, const Part& part, const at::Tensor& shard) {
  const at::Tensor values = at::empty({part.count}, shard.options().dtype(at::kFloat));
  source.load(unit.matrices[part.matrix].name, part.begin, values, true);
  return values;
}

struct Nf4Part {
  size_t matrix;
  at::Tensor spans_SB, maxima;
};

Nf4Part load_codes(WeightSource& source, const PlacedUnit& unit, const Part& part, const at::Tensor& shard) {
  const at::Tensor values = load_values(source, unit, part, shard);
  const int64_t spans = (part.count + unit.format.elements - 1) / unit.format.elements;
  const at::Tensor spans_SB = shard.view({-1, unit.format.bytes}).narrow(0, part.place / unit.format.elements, spans);
  return {part.matrix, spans_SB, nf4_pack_codes(values, spans_SB)};
}

}  // namespace

void load_plain_unit(WeightSource& source, const PlacedUnit& unit, int rank, const at::Tensor& shard) {
  require_all(source, unit);
  for (const auto& part : parts_of(unit, rank))
    source.load(unit.matrices[part.matrix].name, part.begin, shard.narrow(0, part.place, part.count), true);
}

// Sums in float64 of float32 numbers of one size are exact: the same in any order, and so at any number of ranks.
void load_nf4_unit(WeightSource& source, const PlacedUnit& unit, Communicator& group, const at::Tensor& shard) {
  const TensorScope scope(TensorKind::kActivations);  // gone when this returns
  require_all(source, unit);
  const auto num_matrices = static_cast<int64_t>(unit.matrices.size());
  at::Tensor sums_M = at::zeros({num_matrices}, shard.options().dtype(at::kDouble));
  std::vector<Nf4Part> parts;
  for (const auto& part : parts_of(unit, group.rank())) {
    parts.push_back(load_codes(source, unit, part, shard));
    sums_M[static_cast<int64_t>(part.matrix)] = parts.back().maxima.sum(at::kDouble);
  }
  group.all_reduce(sums_M, Reduce::kSum).wait();
  for (const auto& [matrix, spans_SB, maxima] : parts) {
    const int64_t count = unit.matrices[matrix].end - unit.matrices[matrix].begin;
    const int64_t num_blocks = (count + kNf4Block - 1) / kNf4Block;
    const at::Tensor mean = sums_M[static_cast<int64_t>(matrix)].div(static_cast<double>(num_blocks));
    nf4_pack_maxima(maxima, mean.to(at::kFloat), spans_SB);
  }
}

// Matrix by matrix, all ranks each of them, as a rank's values are held until the ranks know the largest.
void load_float8_unit(WeightSource& source, const PlacedUnit& unit, Communicator& group, const at::Tensor& shard,
                      const at::Tensor& scales_R) {
  const TensorScope scope(TensorKind::kActivations);
  require_all(source, unit);
  std::vector<Part> parts(unit.matrices.size());  // empty where this rank has none
  for (const auto& part : parts_of(unit, group.rank())) parts[part.matrix] = part;
  int64_t first_row = 0;
  for (size_t m = 0; m < parts.size(); ++m) {
    const auto& shape = unit.matrices[m].shape;
    at::Tensor maxima_O = at::zeros({shape[0]}, shard.options().dtype(at::kFloat));
    MatrixPart values{{}, parts[m].begin, shape[0], shape[1]};
    if (parts[m].count > 0) {
      values.values = load_values(source, unit, parts[m], shard);
      maxima_O = float8_row_maxima(values);
    }
    group.all_reduce(maxima_O, Reduce::kMax).wait();
    if (parts[m].count > 0) shard.narrow(0, parts[m].place, parts[m].count).copy_(float8_codes(values, maxima_O));
    scales_R.narrow(0, first_row, shape[0]).copy_(float8_scales(maxima_O));
    first_row += shape[0];
  }
}

}  // namespace rankwise
