// Rows of a prepared data set as the batch that one rank computes.
#pragma once

#include <cstdint>
#include <span>

#include "trainer/data/batch.h"
#include "trainer/data/dataset.h"

namespace rankwise {

// The samples of the rows, end to end. A token is a target of the row before it in the same sample; the first token of
// a sample is never one. No rows (a step that does not divide among the ranks) give a batch of one token without a
// target, with sample id -1: it adds nothing to loss or gradient, but the rank still takes part in every gather and
// reduction.
Batch make_batch(const DatasetCache& data, std::span<const int64_t> rows);

}  // namespace rankwise
