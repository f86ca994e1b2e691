#include "trainer/optim/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace rankwise {

double Schedule::at(int64_t step) const {
  if (type == ScheduleType::kConstant) return learning_rate;
  if (step < warmup_steps) return learning_rate * static_cast<double>(step) / static_cast<double>(warmup_steps);
  if (type == ScheduleType::kConstantWithWarmup) return learning_rate;
  const double rest = static_cast<double>(std::max<int64_t>(1, total_steps - warmup_steps));
  const double progress = static_cast<double>(step - warmup_steps) / rest;
  const double factor =
      type == ScheduleType::kLinear ? 1.0 - progress : 0.5 * (1.0 + std::cos(std::numbers::pi * progress));
  return learning_rate * std::max(0.0, factor);
}

}  // namespace rankwise
