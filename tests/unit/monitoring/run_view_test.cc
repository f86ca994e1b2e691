#include "monitoring/run_view.h"

#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>

#include "base/json.h"

namespace rankwise {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr const char* kHostile = "</script><script>alert(1)</script> \"quotes\" \\ & \x01 \n";

// Strict: duplicate keys, NaN and bad UTF-8 are refused.
nlohmann::json parsed(const RunView& view) { return parse_json(run_json(view), "run.json"); }

StepMetrics step_of(int64_t step, double loss) {
  return {.step = step, .epoch = 0.5, .loss = loss, .gradient_norm = 1.5, .input_tokens = 900, .step_seconds = 1.5};
}

TEST(RunJson, ShowsWhereTheRunIs) {
  RunView view;
  view.state = RunState::kEvaluating;
  view.total_steps = 9;
  view.add_step(step_of(1, 3.25));
  view.add_step(step_of(2, 2.123456789));
  view.phase_seconds[static_cast<size_t>(Phase::kGather)] = 4.5;
  view.add_checkpoint(2, 0.25);
  const auto json = parsed(view);
  EXPECT_EQ(json.at("state"), "evaluating");
  EXPECT_EQ(json.at("step"), 2);
  EXPECT_EQ(json.at("total_steps"), 9);
  EXPECT_EQ(json.at("tokens_per_second"), 600);
  EXPECT_EQ(json.at("loss"), nlohmann::json::parse("[[1,3.25],[2,2.12346]]"));
  EXPECT_EQ(json.at("throughput").size(), 2);
  EXPECT_EQ(json.at("phases").at("gather"), 4.5);
  EXPECT_EQ(json.at("phases").size(), kNumPhases);
  EXPECT_EQ(json.at("checkpoints").at(0).at("step"), 2);
}

TEST(RunJson, HoldsThePlanBesideTheMemoryOfEachRank) {
  RunView view;
  const auto gathered = static_cast<size_t>(MemoryKind::kGathered);
  view.planned_bytes[gathered] = 100;
  view.ranks = {{.rank = 0}, {.rank = 1}};
  view.ranks[1].kinds[gathered] = {.live_bytes = 70, .peak_bytes = 90};
  const auto json = parsed(view);
  EXPECT_EQ(json.at("memory_kinds").at(gathered), "gathered");
  EXPECT_EQ(json.at("planned_bytes").at(gathered), 100);
  EXPECT_TRUE(json.at("planned_bytes").at(static_cast<size_t>(MemoryKind::kProcess)).is_null());
  EXPECT_EQ(json.at("ranks").at(1).at("rank"), 1);
  EXPECT_EQ(json.at("ranks").at(1).at("live_bytes").at(gathered), 70);
  EXPECT_EQ(json.at("ranks").at(1).at("peak_bytes").at(gathered), 90);
}

TEST(RunJson, WhatIsNotFiniteIsNull) {
  RunView view;
  view.add_step(step_of(1, kNan));
  view.last_step.gradient_norm = std::numeric_limits<double>::infinity();
  view.eval_loss.add(1, -std::numeric_limits<double>::infinity());
  const auto json = parsed(view);
  EXPECT_TRUE(json.at("loss").at(0).at(1).is_null());
  EXPECT_TRUE(json.at("eval_loss").at(0).at(1).is_null());
  EXPECT_TRUE(json.at("gradient_norm").is_null());
}

TEST(RunJson, TextsArriveAsTheyAre) {
  RunView view;
  view.name = view.model = view.configuration = view.error = kHostile;
  view.log.add("<img src=x onerror=alert(1)>");
  const auto json = parsed(view);
  for (const char* key : {"name", "model", "configuration", "error"}) EXPECT_EQ(json.at(key), kHostile) << key;
  EXPECT_EQ(json.at("log").at(0).at("text"), "<img src=x onerror=alert(1)>");
}

TEST(RunJson, BytesThatAreNotUtf8AreReplaced) {
  RunView view;
  view.model = "m\xff\xc3";
  view.log.add("\xf0\x9f");
  EXPECT_EQ(parsed(view).at("model"), "m\xef\xbf\xbd\xef\xbf\xbd");
}

TEST(RunJson, IsSmallAfterALongRunOfManyRanks) {
  RunView view;
  for (int64_t step = 1; step <= 300'000; ++step) view.add_step(step_of(step, 1.0 / static_cast<double>(step) + 1));
  for (int64_t step = 1; step <= 1000; ++step) view.add_checkpoint(step, 0.123456789);
  for (int i = 0; i < 1000; ++i) view.log.add(std::string(120, 'x'));
  for (int rank = 0; rank < 512; ++rank) {
    view.ranks.push_back({.rank = rank});
    view.ranks.back().kinds.fill({.live_bytes = 12'345'678'901, .peak_bytes = 12'345'678'901});
  }
  EXPECT_EQ(parsed(view).at("checkpoints").size(), RunView::kMaxCheckpoints);
  EXPECT_LT(run_json(view).size(), 256u << 10);
}

}  // namespace
}  // namespace rankwise
