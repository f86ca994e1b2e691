#include "monitoring/thinned_curve.h"

#include <cmath>
#include <limits>

namespace rankwise {

void ThinnedCurve::Sum::add(const Sum& other) {
  steps += other.steps;
  values += other.values;
  num_steps += other.num_steps;
  num_finite += other.num_finite;
}

void ThinnedCurve::add(int64_t step, double value) {
  const bool starts_a_point = sums_.empty() || sums_.back().num_steps == values_per_point_;
  if (starts_a_point && sums_.size() == max_points_) halve();
  if (starts_a_point) sums_.emplace_back();
  const bool finite = std::isfinite(value);
  sums_.back().add({static_cast<double>(step), finite ? value : 0, 1, finite ? 1u : 0u});
}

void ThinnedCurve::halve() {
  for (size_t i = 0; i < sums_.size() / 2; ++i) {
    Sum pair = sums_[2 * i];
    pair.add(sums_[2 * i + 1]);
    sums_[i] = pair;
  }
  sums_.resize(sums_.size() / 2);
  values_per_point_ *= 2;
}

std::vector<ThinnedCurve::Point> ThinnedCurve::points() const {
  std::vector<Point> points;
  points.reserve(sums_.size());
  for (const Sum& sum : sums_) {
    const double mean = sum.num_finite > 0 ? sum.values / static_cast<double>(sum.num_finite)
                                           : std::numeric_limits<double>::quiet_NaN();
    points.push_back({sum.steps / static_cast<double>(sum.num_steps), mean});
  }
  return points;
}

}  // namespace rankwise
