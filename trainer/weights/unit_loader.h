// A rank's part of a unit, read from a model's weights.
#pragma once

#include <ATen/core/Tensor.h>

#include "comms/communicator.h"
#include "trainer/weights/unit_layout.h"
#include "trainer/weights/weight_source.h"

namespace rankwise {

// `shard`: zeros; where the unit is plain its elements [shard_elements], converted while they are copied.
// Throws what the source throws.
void load_plain_unit(WeightSource& source, const PlacedUnit& unit, int rank, const at::Tensor& shard);

// `shard`: bytes [shard_bytes]. Collective over the shard group, which sums what the offset of a matrix is the mean of.
void load_nf4_unit(WeightSource& source, const PlacedUnit& unit, Communicator& group, const at::Tensor& shard);

// The same of codes in float8, whose scales every rank gets whole: `scales_R`, [rows of all matrices], in their order.
void load_float8_unit(WeightSource& source, const PlacedUnit& unit, Communicator& group, const at::Tensor& shard,
                      const at::Tensor& scales_R);

}  // namespace rankwise
