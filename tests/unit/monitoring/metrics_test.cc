#include "monitoring/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <set>
#include <sstream>
#include <thread>
#include <vector>

#include "base/error.h"

namespace rankwise {
namespace {

using ::testing::HasSubstr;
using ::testing::Matcher;
using ::testing::MatchesRegex;

// An own reader of the text format, strict about what Prometheus is strict about: HELP and TYPE come once and before
// the samples, no series twice.
struct Page {
  std::map<std::string, double> series;
  std::map<std::string, std::string> types;
};

std::string family_of(const std::string& sample_name, const Page& page) {
  if (page.types.contains(sample_name)) return sample_name;
  return sample_name.substr(0, sample_name.rfind('_'));  // x_bucket, x_sum or x_count of histogram x
}

Page parse(const std::string& text) {
  static const Matcher<std::string> header_form = MatchesRegex("# (HELP|TYPE) [a-z_]+ .+");
  static const Matcher<std::string> sample_form = MatchesRegex(R"re([a-z_]+(\{([a-z_]+="[^"\\]*",?)+\})? [^ ]+)re");
  Page page;
  std::set<std::string> helped;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string hash, keyword, name, rest;
    if (line.starts_with("#")) {
      words >> hash >> keyword >> name >> rest;
      EXPECT_THAT(line, header_form);
      const bool is_new = keyword == "HELP" ? helped.insert(name).second : page.types.emplace(name, rest).second;
      EXPECT_TRUE(is_new) << line;
      continue;
    }
    EXPECT_THAT(line, sample_form);
    EXPECT_TRUE(page.types.contains(family_of(line.substr(0, line.find_first_of("{ ")), page))) << line;
    words >> name >> rest;
    EXPECT_TRUE(page.series.emplace(name, std::stod(rest)).second) << line;
  }
  EXPECT_EQ(text.back(), '\n');
  return page;
}

StepMetrics some_step() {
  return {.step = 7,
          .epoch = 0.5,
          .loss = 3.25,
          .gradient_norm = 1.5,
          .learning_rate = 1e-3,
          .input_tokens = 900,
          .target_tokens = 200,
          .padding_tokens = 24,
          .samples = 32,
          .step_seconds = 1.5};
}

TEST(Metrics, AStepSetsTheGaugesAndAddsToTheCounters) {
  Metrics metrics({.rank = 0, .world_size = 2, .version = "0.1.0"});
  metrics.observe_step(some_step());
  metrics.observe_step(some_step());
  auto series = parse(metrics.text()).series;
  EXPECT_EQ(series.at("rankwise_train_steps_total"), 2);
  EXPECT_EQ(series.at("rankwise_train_tokens_total{kind=\"input\"}"), 1800);
  EXPECT_EQ(series.at("rankwise_train_tokens_total{kind=\"target\"}"), 400);
  EXPECT_EQ(series.at("rankwise_train_tokens_total{kind=\"padding\"}"), 48);
  EXPECT_EQ(series.at("rankwise_train_samples_total"), 64);
  EXPECT_EQ(series.at("rankwise_train_step"), 7);
  EXPECT_EQ(series.at("rankwise_train_epoch"), 0.5);
  EXPECT_EQ(series.at("rankwise_train_loss"), 3.25);
  EXPECT_EQ(series.at("rankwise_train_gradient_norm"), 1.5);
  EXPECT_EQ(series.at("rankwise_train_learning_rate"), 1e-3);
  EXPECT_EQ(series.at("rankwise_train_tokens_per_second"), 600);
  EXPECT_EQ(series.at("rankwise_train_nonfinite_steps_total"), 0);
  EXPECT_EQ(series.at("rankwise_train_step_duration_seconds_count"), 2);
  EXPECT_EQ(series.at("rankwise_train_step_duration_seconds_sum"), 3);
  EXPECT_EQ(series.at("rankwise_train_step_duration_seconds_bucket{le=\"1\"}"), 0);
  EXPECT_EQ(series.at("rankwise_train_step_duration_seconds_bucket{le=\"2\"}"), 2);
  EXPECT_EQ(series.at("rankwise_world_size"), 2);
  EXPECT_EQ(series.at("rankwise_build_info{version=\"0.1.0\"}"), 1);
}

TEST(Metrics, ANonfiniteStepIsCountedAndShown) {
  Metrics metrics({});
  auto step = some_step();
  step.loss = std::numeric_limits<double>::quiet_NaN();
  step.nonfinite = true;
  metrics.observe_step(step);
  auto series = parse(metrics.text()).series;
  EXPECT_TRUE(std::isnan(series.at("rankwise_train_loss")));
  EXPECT_EQ(series.at("rankwise_train_nonfinite_steps_total"), 1);
}

TEST(Metrics, WhatWasNotMeasuredYetIsNaNAndNotZero) {
  auto series = parse(Metrics({}).text()).series;
  EXPECT_TRUE(std::isnan(series.at("rankwise_train_loss")));
  EXPECT_TRUE(std::isnan(series.at("rankwise_eval_loss")));
  EXPECT_TRUE(std::isnan(series.at("rankwise_train_gradient_norm")));
}

TEST(Metrics, PerRankSeriesCarryTheRank) {
  Metrics metrics({.rank = 3, .world_size = 4});
  metrics.set_memory(MemoryKind::kBaseShard, 1000, 2000);
  metrics.add_comm_bytes(CommOp::kAllGather, Transport::kNccl, 5);
  metrics.add_comm_bytes(CommOp::kAllGather, Transport::kNccl, 6);
  metrics.add_phase_seconds(Phase::kAllreduce, 0.25);
  auto series = parse(metrics.text()).series;
  EXPECT_EQ(series.at("rankwise_memory_bytes{kind=\"base_shard\",rank=\"3\"}"), 1000);
  EXPECT_EQ(series.at("rankwise_memory_peak_bytes{kind=\"base_shard\",rank=\"3\"}"), 2000);
  EXPECT_EQ(series.at("rankwise_comm_bytes_total{op=\"all_gather\",rank=\"3\",transport=\"nccl\"}"), 11);
  EXPECT_EQ(series.at("rankwise_comm_bytes_total{op=\"all_reduce\",rank=\"3\",transport=\"mpi\"}"), 0);
  EXPECT_EQ(series.at("rankwise_train_phase_seconds_total{phase=\"allreduce\",rank=\"3\"}"), 0.25);
}

TEST(Metrics, APageOfAnotherRankHasWhatBelongsToThatRankAlone) {
  const auto page = parse(Metrics({.rank = 1, .local_rank = 1, .world_size = 2, .host = "node-b"}).text());
  for (const auto& [name, value] : page.series) EXPECT_THAT(name, HasSubstr("rank=\"1\""));
  EXPECT_LE(page.series.size(), 45u);  // every rank of a large job adds them to Prometheus
  EXPECT_EQ(page.series.at("rankwise_rank_info{gpu_uuid=\"\",local_rank=\"1\",node=\"node-b\",rank=\"1\"}"), 1);
}

TEST(Metrics, ARankIsJoinedToItsGpu) {
  const Metrics metrics({.rank = 3, .local_rank = 1, .host = "node-b", .gpu_uuid = "GPU-0011"});
  EXPECT_THAT(metrics.text(),
              HasSubstr("rankwise_rank_info{gpu_uuid=\"GPU-0011\",local_rank=\"1\",node=\"node-b\",rank=\"3\"} 1"));
}

TEST(Metrics, RetriesOfTheAllocatorAreATotal) {
  Metrics metrics({});
  metrics.set_allocator_retries(2);
  metrics.set_allocator_retries(2);
  metrics.set_allocator_retries(5);
  EXPECT_EQ(parse(metrics.text()).series.at("rankwise_allocator_retries_total{rank=\"0\"}"), 5);
}

TEST(Metrics, APageFitsTheMemoryThatRanksShare) {
  Metrics metrics({.host = std::string(256, 'h'), .gpu_uuid = std::string(64, 'u'), .version = std::string(64, 'v')});
  EXPECT_LT(metrics.text().size(), Metrics::kMaxPageBytes / 2);
}

void touch_everything(Metrics& metrics) {
  metrics.observe_step(some_step());
  metrics.set_progress_ratio(0.5);
  metrics.set_active(true);
  metrics.set_eval_loss(3.5);
  metrics.observe_resume(5);
  metrics.observe_checkpoint_saved(7, 0.5);
  metrics.observe_checkpoint_failed();
  for (int i = 0; i <= static_cast<int>(Phase::kEval); ++i) metrics.add_phase_seconds(static_cast<Phase>(i), 1);
  for (int i = 0; i <= static_cast<int>(MemoryKind::kProcess); ++i)
    metrics.set_memory(static_cast<MemoryKind>(i), 1, 2);
  for (const auto op : {CommOp::kAllReduce, CommOp::kAllGather}) metrics.add_comm_bytes(op, Transport::kMpi, 9);
  metrics.add_skipped_samples(SkipReason::kTooLong, 2);
  metrics.add_skipped_samples(SkipReason::kNoTarget, 1);
  metrics.set_process_memory();
  metrics.set_allocator_retries(1);
  metrics.observe_end(true, 1);
}

TEST(Metrics, TheSetOfSeriesNeverChanges) {
  Metrics metrics({});
  const auto names = [&] {
    std::vector<std::string> all;
    for (const auto& [name, value] : parse(metrics.text()).series) all.push_back(name);
    return all;
  };
  const auto before = names();
  touch_everything(metrics);
  EXPECT_EQ(names(), before);
  EXPECT_LT(before.size(), 100u);
}

TEST(Metrics, NamesFollowTheConventions) {
  for (const auto& [name, type] : parse(Metrics({}).text()).types) {
    EXPECT_TRUE(name.starts_with("rankwise_")) << name;
    EXPECT_EQ(name.ends_with("_total"), type == "counter") << name;
    EXPECT_TRUE(type != "histogram" || name.ends_with("_seconds")) << name;
  }
}

TEST(Metrics, CheckpointResultsAreCountedApart) {
  Metrics metrics({});
  metrics.observe_checkpoint_saved(100, 0.7);
  metrics.observe_checkpoint_failed();
  metrics.observe_checkpoint_failed();
  auto series = parse(metrics.text()).series;
  EXPECT_EQ(series.at("rankwise_checkpoint_saves_total{result=\"success\"}"), 1);
  EXPECT_EQ(series.at("rankwise_checkpoint_saves_total{result=\"failure\"}"), 2);
  EXPECT_EQ(series.at("rankwise_checkpoint_last_success_step"), 100);
  EXPECT_GT(series.at("rankwise_checkpoint_last_success_timestamp_seconds"), 1.7e9);
  EXPECT_EQ(series.at("rankwise_checkpoint_save_duration_seconds_count"), 1);
}

TEST(Metrics, OnlyARunThatIsFinishedWasASuccess) {
  Metrics metrics({});
  metrics.observe_end(/*finished=*/false, 12.5);
  auto series = parse(metrics.text()).series;
  EXPECT_EQ(series.at("rankwise_run_duration_seconds"), 12.5);
  EXPECT_EQ(series.at("rankwise_run_last_success_timestamp_seconds"), 0);
  metrics.observe_end(/*finished=*/true, 13);
  EXPECT_GT(parse(metrics.text()).series.at("rankwise_run_last_success_timestamp_seconds"), 1.7e9);
}

TEST(Metrics, AnActiveRunIsNotStalledBeforeItsFirstStep) {
  Metrics metrics({});
  EXPECT_EQ(parse(metrics.text()).series.at("rankwise_train_last_step_timestamp_seconds"), 0);
  metrics.set_active(true);
  EXPECT_GT(parse(metrics.text()).series.at("rankwise_train_last_step_timestamp_seconds"), 1.7e9);
}

TEST(Metrics, AVersionCannotInjectLabels) {
  EXPECT_THROW(Metrics({.version = "1\"} 7\nrankwise_train_loss 0"}), Error);
  EXPECT_THROW(Metrics({.version = ""}), Error);
  EXPECT_THROW(Metrics({.version = std::string(65, 'a')}), Error);
}

TEST(Metrics, PagesMayBeMadeWhileAnotherThreadCounts) {
  Metrics metrics({});
  std::thread trainer([&] {
    for (int i = 0; i < 500; ++i) touch_everything(metrics);
  });
  for (int i = 0; i < 20; ++i) EXPECT_THAT(metrics.text(), HasSubstr("rankwise_train_steps_total"));
  trainer.join();
  EXPECT_EQ(parse(metrics.text()).series.at("rankwise_train_steps_total"), 500);
}

}  // namespace
}  // namespace rankwise
