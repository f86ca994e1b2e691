#include "trainer/weights/gather_schedule.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>

#include "tests/support/expect_error.h"

namespace rankwise::testing {
namespace {

// An embedding, blocks and a head; tied: the embedding is the head.
FrozenSpec decoder(int num_blocks, bool tied) {
  FrozenSpec spec;
  spec.units.push_back({"embedding", UnitPool::kEnds, {}});
  for (int b = 0; b < num_blocks; ++b) spec.units.push_back({"block", UnitPool::kBlocks, {}});
  if (!tied) spec.units.push_back({"head", UnitPool::kEnds, {}});
  spec.forward_order.resize(static_cast<size_t>(num_blocks) + 1);
  std::iota(spec.forward_order.begin(), spec.forward_order.end(), 0);
  spec.forward_order.push_back(tied ? 0 : num_blocks + 1);
  for (int b = num_blocks; b >= 1; --b) spec.backward_order.push_back(b);
  return spec;
}

std::vector<bool> none(const FrozenSpec& spec) { return std::vector<bool>(spec.units.size(), false); }

// Carries the actions out as a store would and checks what a store relies on.
class Travel {
 public:
  Travel(const FrozenSpec& spec, int prefetch, const std::vector<bool>& always_here)
      : spec_(spec), always_here_(always_here), schedule_(spec, prefetch, always_here) {}

  int touch(int unit, Direction direction) {
    const auto actions = schedule_.touch(unit, direction);
    const auto pool = spec_.units[static_cast<size_t>(unit)].pool;
    for (const auto& action : actions) {
      const auto action_pool = spec_.units[static_cast<size_t>(action.unit)].pool;
      EXPECT_FALSE(always_here_[static_cast<size_t>(action.unit)]);
      EXPECT_GE(action.slot, 0);
      EXPECT_LT(action.slot, schedule_.num_slots(action_pool));
      slots_[{action_pool, action.slot}] = action.unit;
    }
    if (!always_here_[static_cast<size_t>(unit)]) {
      const int slot = schedule_.slot_of(unit);
      EXPECT_GE(slot, 0) << "unit " << unit;
      EXPECT_EQ((slots_[{pool, slot}]), unit) << "a prefetch must not take the buffer in use";
    }
    return static_cast<int>(actions.size());
  }
  int pass(Direction direction) {
    int gathers = 0;
    for (const int unit : direction == Direction::kForward ? spec_.forward_order : spec_.backward_order)
      gathers += touch(unit, direction);
    return gathers;
  }
  int both() { return pass(Direction::kForward) + pass(Direction::kBackward); }
  const GatherSchedule& schedule() const { return schedule_; }

 private:
  FrozenSpec spec_;
  std::vector<bool> always_here_;
  GatherSchedule schedule_;
  std::map<std::pair<UnitPool, int>, int> slots_;
};

TEST(GatherSchedule, EachUnitIsInItsBufferWhenItIsUsed) {
  for (const bool tied : {false, true}) {
    for (int blocks = 1; blocks <= 8; ++blocks) {
      for (int prefetch = 0; prefetch <= 9; ++prefetch) {
        const auto spec = decoder(blocks, tied);
        Travel travel(spec, prefetch, none(spec));
        for (const char pass : {'t', 't', 'f', 'f', 't', 'f', 't'})
          pass == 't' ? travel.both() : travel.pass(Direction::kForward);
      }
    }
  }
}

// Two turns a pass, at each of which the ring's units need not be gathered again.
TEST(GatherSchedule, GathersEachBlockTwiceSaveForTheTurns) {
  for (int blocks = 1; blocks <= 12; ++blocks) {
    for (int prefetch = 0; prefetch <= 14; ++prefetch) {
      const auto spec = decoder(blocks, /*tied=*/false);
      const auto count = GatherSchedule::count(spec, prefetch, none(spec));
      int total = 0;
      for (int b = 1; b <= blocks; ++b) total += count.steady[static_cast<size_t>(b)];
      EXPECT_EQ(total, 2 * std::max(0, blocks - (prefetch + 1))) << blocks << " blocks, prefetch " << prefetch;
      EXPECT_EQ(count.steady.front(), 1) << "embedding and head share a buffer";
      EXPECT_EQ(count.steady.back(), 1);
    }
  }
}

TEST(GatherSchedule, TheFirstPassGathersEverythingOnceAndWhatLeftTheRingAgain) {
  const auto spec = decoder(6, /*tied=*/false);
  const auto count = GatherSchedule::count(spec, 0, none(spec));
  EXPECT_EQ(count.first, (std::vector<int>{1, 2, 2, 2, 2, 2, 1, 1})) << "block 5 is still there at the turn";
  EXPECT_EQ(count.steady, (std::vector<int>{1, 1, 2, 2, 2, 2, 1, 1})) << "and block 0 at the other";
}

TEST(GatherSchedule, ATiedTableIsGatheredOnceAndStays) {
  const auto spec = decoder(5, /*tied=*/true);
  const auto count = GatherSchedule::count(spec, 2, none(spec));
  EXPECT_EQ(count.first[0], 1);
  EXPECT_EQ(count.steady[0], 0);
}

TEST(GatherSchedule, NeverGathersWhatIsAlwaysHere) {
  const auto spec = decoder(6, false);
  auto resident = none(spec);
  resident[0] = resident[2] = resident[5] = true;
  const auto count = GatherSchedule::count(spec, 1, resident);
  for (const size_t u : {0u, 2u, 5u}) EXPECT_EQ(count.first[u] + count.steady[u], 0);
  const auto all = GatherSchedule::count(spec, 1, std::vector<bool>(spec.units.size(), true));
  EXPECT_EQ(std::accumulate(all.first.begin(), all.first.end(), 0), 0);
}

TEST(GatherSchedule, RunsAheadInTheDirectionOfTravel) {
  const auto spec = decoder(8, false);
  Travel travel(spec, 2, none(spec));
  for (int unit = 0; unit <= 4; ++unit) travel.touch(unit, Direction::kForward);
  for (const int ahead : {5, 6}) EXPECT_GE(travel.schedule().slot_of(ahead), 0) << "forward";
  EXPECT_EQ(travel.schedule().slot_of(7), -1) << "not further than asked";
  travel.pass(Direction::kForward);
  for (int unit = 8; unit >= 5; --unit) travel.touch(unit, Direction::kBackward);
  for (const int ahead : {4, 3}) EXPECT_GE(travel.schedule().slot_of(ahead), 0) << "backward";
}

TEST(GatherSchedule, WithoutPrefetchGathersOnlyWhatIsTouched) {
  const auto spec = decoder(4, false);
  Travel travel(spec, 0, none(spec));
  for (const int unit : spec.forward_order) EXPECT_EQ(travel.touch(unit, Direction::kForward), 1) << unit;
}

TEST(GatherSchedule, CountsWhatATravellerDoes) {
  for (int prefetch = 0; prefetch <= 5; ++prefetch) {
    const auto spec = decoder(7, false);
    const auto count = GatherSchedule::count(spec, prefetch, none(spec));
    Travel travel(spec, prefetch, none(spec));
    EXPECT_EQ(travel.both(), std::accumulate(count.first.begin(), count.first.end(), 0));
    for (int pass = 1; pass < 5; ++pass)
      EXPECT_EQ(travel.both(), std::accumulate(count.steady.begin(), count.steady.end(), 0)) << pass;
  }
}

TEST(GatherSchedule, AUnitThatIsNotOnTheWayIsAnError) {
  const auto spec = decoder(3, false);
  Travel travel(spec, 1, none(spec));
  EXPECT_ERROR(travel.touch(0, Direction::kBackward), Error, "unit 0", "backward");
}

}  // namespace
}  // namespace rankwise::testing
