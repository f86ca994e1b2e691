#include "trainer/weights/gather_schedule.h"

#include <algorithm>

#include "base/check.h"

namespace rankwise {

GatherSchedule::GatherSchedule(const FrozenSpec& spec, int prefetch, std::vector<bool> always_here)
    : always_here_(std::move(always_here)),
      prefetch_(prefetch),
      tour_(spec.forward_order),
      forward_stops_(static_cast<int>(spec.forward_order.size())) {
  for (const auto& unit : spec.units) pools_.push_back(unit.pool);
  tour_.insert(tour_.end(), spec.backward_order.begin(), spec.backward_order.end());
  for (const UnitPool pool : {UnitPool::kEnds, UnitPool::kBlocks}) {
    slots_[static_cast<int>(pool)].assign(static_cast<size_t>(num_slots(pool)), -1);
  }
}

int GatherSchedule::num_slots(UnitPool pool) const { return pool == UnitPool::kEnds ? 1 : prefetch_ + 1; }

int GatherSchedule::slot_of(int unit) const {
  const auto& slots = slots_[static_cast<int>(pools_[unit])];
  const auto found = std::find(slots.begin(), slots.end(), unit);
  return found == slots.end() ? -1 : static_cast<int>(found - slots.begin());
}

// A tied table stands twice in the forward order: the stop meant is the next one from here.
int GatherSchedule::place_in_tour(int unit, Direction direction) const {
  const int begin = direction == Direction::kForward ? 0 : forward_stops_;
  const int end = direction == Direction::kForward ? forward_stops_ : static_cast<int>(tour_.size());
  for (int k = std::max(begin, here_); k < end; ++k) {
    if (tour_[k] == unit) return k;
  }
  for (int k = begin; k < end; ++k) {
    if (tour_[k] == unit) return k;
  }
  throw Error(
      fmt::format("unit {} is not on the {} tour", unit, direction == Direction::kForward ? "forward" : "backward"));
}

int GatherSchedule::distance(int unit) const {
  const int stops = static_cast<int>(tour_.size());
  for (int k = 1; k <= stops; ++k) {
    if (tour_[(here_ + k) % stops] == unit) return k;
  }
  return stops + 1;
}

bool GatherSchedule::fetch(int unit, bool only_if_sooner, std::vector<GatherAction>& actions) {
  if (always_here_[unit] || slot_of(unit) >= 0) return true;
  auto& slots = slots_[static_cast<int>(pools_[unit])];
  const auto rank_of = [this](int held) { return held < 0 ? static_cast<int>(tour_.size()) + 2 : distance(held); };
  const auto victim =
      std::max_element(slots.begin(), slots.end(), [&](int a, int b) { return rank_of(a) < rank_of(b); });
  const bool in_use = *victim == tour_[here_];
  if (only_if_sooner && (in_use || rank_of(*victim) <= distance(unit))) return false;
  *victim = unit;
  actions.push_back({unit, static_cast<int>(victim - slots.begin())});
  return true;
}

std::vector<GatherAction> GatherSchedule::touch(int unit, Direction direction) {
  here_ = place_in_tour(unit, direction);
  std::vector<GatherAction> actions;
  fetch(unit, false, actions);
  const int stops = static_cast<int>(tour_.size());
  for (int ahead = 1; ahead <= prefetch_; ++ahead) {
    if (!fetch(tour_[(here_ + ahead) % stops], true, actions)) break;
  }
  return actions;
}

GatherSchedule::Count GatherSchedule::count(const FrozenSpec& spec, int prefetch,
                                            const std::vector<bool>& always_here) {
  GatherSchedule schedule(spec, prefetch, always_here);
  const auto pass = [&] {
    std::vector<int> times(spec.units.size(), 0);
    const auto visit = [&](const std::vector<int>& order, Direction direction) {
      for (const int unit : order) {
        for (const auto& action : schedule.touch(unit, direction)) ++times[action.unit];
      }
    };
    visit(spec.forward_order, Direction::kForward);
    visit(spec.backward_order, Direction::kBackward);
    return times;
  };
  Count result;
  result.first = pass();
  pass();
  result.steady = pass();
  return result;
}

}  // namespace rankwise
