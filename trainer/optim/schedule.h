// Learning rate by optimizer step, as transformers' get_scheduler gives it: step 0 is the first update.
#pragma once

#include <cstdint>

namespace rankwise {

enum class ScheduleType { kLinear, kCosine, kConstant, kConstantWithWarmup };

struct Schedule {
  ScheduleType type = ScheduleType::kCosine;
  double learning_rate = 0;  // the peak
  int64_t warmup_steps = 0;
  int64_t total_steps = 0;

  double at(int64_t step) const;
};

}  // namespace rankwise
