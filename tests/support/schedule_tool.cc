// Prints the learning rate of each step, one a line:  schedule_tool TYPE PEAK WARMUP_STEPS TOTAL_STEPS
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>

#include "trainer/optim/schedule.h"

using namespace rankwise;

int main(int argc, char** argv) {
  if (argc != 5) return 64;
  const std::map<std::string, ScheduleType> types = {{"linear", ScheduleType::kLinear},
                                                     {"cosine", ScheduleType::kCosine},
                                                     {"constant", ScheduleType::kConstant},
                                                     {"constant_with_warmup", ScheduleType::kConstantWithWarmup}};
  const Schedule schedule{types.at(argv[1]), std::atof(argv[2]), std::atoll(argv[3]), std::atoll(argv[4])};
  for (int64_t step = 0; step < schedule.total_steps; ++step) std::printf("%.17g\n", schedule.at(step));
}
