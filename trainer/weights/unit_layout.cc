#include "trainer/weights/unit_layout.h"

#include <functional>
#include <numeric>

#include "base/round_up.h"
#include "trainer/kernels/nf4.h"

namespace rankwise {

static_assert(kNf4SpanElements % kLeafElements == 0);

SpanFormat span_format(BaseFormat format, UnitPool pool, int64_t element_bytes) {
  if (pool == UnitPool::kEnds || format == BaseFormat::kPlain) return plain_format(element_bytes);
  return format == BaseFormat::kNf4 ? SpanFormat{kNf4SpanElements, sizeof(Nf4Span)} : plain_format(1);
}

PlacedUnit place_unit(const UnitSpec& unit, int shard_group_size, const SpanFormat& format) {
  PlacedUnit placed{unit.name, unit.pool, format, {}, 0, 0};
  int64_t offset = 0;
  for (const auto& matrix : unit.matrices) {
    const int64_t count = std::accumulate(matrix.shape.begin(), matrix.shape.end(), int64_t{1}, std::multiplies<>());
    placed.matrices.push_back({matrix.name, matrix.shape, offset, offset + count});
    offset = round_up(offset + count, format.elements);
  }
  placed.num_elements = round_up(offset, format.elements * shard_group_size);
  placed.shard_elements = placed.num_elements / shard_group_size;
  return placed;
}

}  // namespace rankwise
