// loss.svg: the loss over the steps, as a picture that any browser shows.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "monitoring/run_log.h"

namespace rankwise {

// A standalone SVG of 760 x 440: training loss light, its moving average strong, evaluations as marked points with the
// first and the last value written out. Points that are not finite are left out; no point at all is a picture too.
// `title` may be any bytes.
std::string loss_plot_svg(const LossCurves& curves, std::string_view title);

// Replaces the file at once: a viewer sees the old picture or the new one. Throws as replace_file does.
void write_loss_plot(const std::filesystem::path& path, const LossCurves& curves, std::string_view title);

// At most about `max_count` round values (1, 2 or 5 times a power of ten apart) inside [low, high], low < high.
std::vector<double> nice_ticks(double low, double high, int max_count);

}  // namespace rankwise
