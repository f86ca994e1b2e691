// A curve over the steps that stays small however long the run is.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace rankwise {

// Keeps at most max_points points. When they are full, neighbours become their mean, and from then on a point stands
// for twice as many values. Adding costs a constant time on the average.
class ThinnedCurve {
 public:
  struct Point {
    double step = 0;   // the mean of its steps
    double value = 0;  // the mean of its finite values; NaN where it has none
  };

  explicit ThinnedCurve(size_t max_points = 1000) : max_points_(max_points) {}  // an even number

  void add(int64_t step, double value);
  std::vector<Point> points() const;  // in the order of adding; the last may stand for fewer values than the others

 private:
  struct Sum {
    double steps = 0, values = 0;
    size_t num_steps = 0, num_finite = 0;
    void add(const Sum& other);
  };
  void halve();

  size_t max_points_;
  size_t values_per_point_ = 1;
  std::vector<Sum> sums_;
};

}  // namespace rankwise
