// Pages of metrics in Prometheus' text format 0.0.4, as text.
#pragma once

#include <string>
#include <vector>

namespace rankwise {

// One page with the series of all: each family once, with the HELP and TYPE of the first page that has it, families by
// name. The pages are Metrics::text()'s and have no series in common. Empty pages count for nothing.
std::string merge_pages(const std::vector<std::string>& pages);

}  // namespace rankwise
