// Which unit lies in which gathered buffer, and what to gather next. The order of travel is static (forward up,
// backward down, again and again), so the buffer to give up is the one whose unit is needed last, and units still in a
// buffer at a turn are not gathered again. Pure: FrozenStore carries its actions out, MemoryPlan counts them.
#pragma once

#include <vector>

#include "trainer/weights/unit_layout.h"

namespace rankwise {

enum class Direction { kForward, kBackward };

struct GatherAction {
  int unit;
  int slot;  // of the unit's pool; what lay there is given up
};

class GatherSchedule {
 public:
  // prefetch >= 0: units gathered ahead. always_here[u]: resident or unsharded, never gathered through a slot.
  GatherSchedule(const FrozenSpec& spec, int prefetch, std::vector<bool> always_here);

  // The unit is about to be used: what must be gathered, itself first if it is not here, then what lies ahead.
  std::vector<GatherAction> touch(int unit, Direction direction);

  int slot_of(int unit) const;         // -1: in no slot
  int num_slots(UnitPool pool) const;  // 1 for the ends, prefetch + 1 for the blocks

  // Units gathered by one forward and backward pass: in the first of a run, and in every later one.
  struct Count {
    std::vector<int> first;  // times each unit is gathered
    std::vector<int> steady;
  };
  static Count count(const FrozenSpec& spec, int prefetch, const std::vector<bool>& always_here);

 private:
  int place_in_tour(int unit, Direction direction) const;
  int distance(int unit) const;  // stops until the unit is next used, from here_
  bool fetch(int unit, bool only_if_sooner, std::vector<GatherAction>& actions);

  std::vector<UnitPool> pools_;
  std::vector<bool> always_here_;
  int prefetch_;
  std::vector<int> tour_;  // forward order, then backward order
  int forward_stops_;
  int here_ = 0;               // index into tour_
  std::vector<int> slots_[2];  // by pool: unit in each slot, -1 empty
};

}  // namespace rankwise
