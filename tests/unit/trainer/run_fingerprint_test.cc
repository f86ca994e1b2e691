#include "trainer/run_fingerprint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "base/error.h"
#include "trainer/config_mapping.h"

namespace rankwise {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

struct Changed {
  RunConfig config;
  RunFacts facts;
};

const std::vector<MatchedModule> kModules = {{"model.layers.0.self_attn.q_proj", 8, 8, 4, 8, 2}};
const std::vector<MatchedModule> kOtherModules = {{"model.layers.0.self_attn.q_proj", 8, 8, 4, 8, 4}};

Changed some_run() {
  RunConfig config;
  config.data.train = {{"train.jsonl", DataSection::Format::kText}};
  config.train.max_steps = 20;
  return {config, {"b0", "t0", "c0", "d0", "Float", kModules, 20, 2}};
}

std::vector<FieldDifference> differences(const std::function<void(Changed&)>& change) {
  const Changed saved = some_run();
  Changed current = some_run();
  change(current);
  return fingerprint_differences(make_fingerprint(saved.config, saved.facts),
                                 make_fingerprint(current.config, current.facts));
}

struct Change {
  const char* field;
  std::function<void(Changed&)> make;
};

TEST(RunFingerprint, EachThingThatDecidesTheNumbersIsAFieldThatMustMatch) {
  const Change changes[] = {
      {"base_weights", [](Changed& run) { run.facts.base_weights = "b1"; }},
      {"base_weights", [](Changed& run) { run.config.model.base_dtype = ModelSection::BaseDtype::kNf4; }},
      {"base_weights", [](Changed& run) { run.config.model.base_dtype = ModelSection::BaseDtype::kFloat8; }},
      {"dtype", [](Changed& run) { run.facts.compute_dtype = "Double"; }},
      {"lora_r", [](Changed& run) { run.config.lora.r = 16; }},
      {"lora_alpha", [](Changed& run) { run.config.lora.lora_alpha = 16; }},
      {"lora_dropout", [](Changed& run) { run.config.lora.lora_dropout = 0.1; }},
      {"lora_modules", [](Changed& run) { run.facts.modules = kOtherModules; }},
      {"tokenizer", [](Changed& run) { run.facts.tokenizer = "t1"; }},
      {"chat_template", [](Changed& run) { run.facts.chat_template = "none"; }},
      {"data_settings", [](Changed& run) { run.config.data.max_length = 64; }},
      {"data_settings", [](Changed& run) { run.config.data.packing = false; }},
      {"data_settings", [](Changed& run) { run.config.data.loss_on = DataSection::LossOn::kAll; }},
      {"data_settings", [](Changed& run) { run.config.data.over_length = DataSection::OverLength::kDrop; }},
      {"data_settings", [](Changed& run) { run.config.data.eval_fraction = 0.1; }},
      {"data", [](Changed& run) { run.facts.data = "d1"; }},
      {"seed", [](Changed& run) { run.config.run.seed = 43; }},
      {"global_batch_size", [](Changed& run) { run.config.train.global_batch_size = 64; }},
      {"optimizer", [](Changed& run) { run.config.train.adam_beta1 = 0.8; }},
      {"optimizer", [](Changed& run) { run.config.train.adam_beta2 = 0.8; }},
      {"optimizer", [](Changed& run) { run.config.train.adam_epsilon = 1e-6; }},
      {"optimizer", [](Changed& run) { run.config.train.weight_decay = 0.1; }},
      {"optimizer", [](Changed& run) { run.config.train.max_grad_norm = 0.5; }},
      {"schedule", [](Changed& run) { run.config.train.learning_rate = 1e-3; }},
      {"schedule", [](Changed& run) { run.config.train.lr_scheduler_type = TrainSection::Scheduler::kLinear; }},
      {"schedule", [](Changed& run) { run.config.train.warmup_ratio = 0.1; }},
      {"schedule", [](Changed& run) { run.config.train.warmup_steps = 0; }},
  };
  for (const Change& change : changes) {
    SCOPED_TRACE(change.field);
    const auto found = differences(change.make);
    ASSERT_THAT(found, SizeIs(1));
    EXPECT_EQ(found[0].name, change.field);
    EXPECT_EQ(found[0].rule, FieldRule::kMustMatch);
  }
}

TEST(RunFingerprint, LengthAndPlaceOfTheRunMayChangeAndSayWhatThatMeans) {
  const auto longer = differences([](Changed& run) { run.facts.total_steps = 40; });
  ASSERT_THAT(longer, SizeIs(1));
  EXPECT_EQ(describe(longer[0]), "total_steps: the checkpoint has \"20\", this run has \"40\"");
  EXPECT_EQ(longer[0].rule, FieldRule::kInformative);
  EXPECT_THAT(consequence_of(longer[0].name), HasSubstr("the learning rate follows the schedule of this run"));
  const auto elsewhere = differences([](Changed& run) { run.facts.world_size = 3; });
  ASSERT_THAT(elsewhere, SizeIs(1));
  EXPECT_EQ(elsewhere[0].rule, FieldRule::kInformative);
  EXPECT_THAT(consequence_of(elsewhere[0].name), HasSubstr("the same samples"));
}

TEST(RunFingerprint, ValuesAreThoseThatAReaderCanCompare) {
  const auto found = differences([](Changed& run) { run.config.train.learning_rate = 1e-3; });
  EXPECT_EQ(*found[0].saved, "cosine learning_rate 0.0002 warmup 0 of all steps");
}

// Checkpoints hold these texts: with others no run would go on.
TEST(RunFingerprint, ABaseThatIsNotAsItsFilesHaveItIsNamed) {
  const auto base_of = [](ModelSection::BaseDtype base_dtype) {
    Changed run = some_run();
    run.config.model.base_dtype = base_dtype;
    return make_fingerprint(run.config, run.facts).front().value;
  };
  EXPECT_EQ(base_of(ModelSection::BaseDtype::kSame), "b0");
  EXPECT_EQ(base_of(ModelSection::BaseDtype::kNf4), "b0 in nf4");
  EXPECT_EQ(base_of(ModelSection::BaseDtype::kFloat8), "b0 in float8");
}

TEST(RunFingerprint, WhatOnlyShapesTheWorkIsNoField) {
  EXPECT_TRUE(differences([](Changed& run) {
                run.config.run.name = "other";
                run.config.train.per_device_train_batch_size = 1;
                run.config.train.save_steps = 7;
                run.config.parallel.prefetch = 0;
                run.config.data.train[0].path = "moved.jsonl";
              }).empty());
}

TEST(Schedule, AWarmUpLongerThanTheRunIsABadConfiguration) {
  TrainSection train;
  train.warmup_steps = 21;
  EXPECT_NO_THROW(schedule_of(train, 21));
  try {
    schedule_of(train, 20);
    FAIL() << "accepted";
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), HasSubstr("train.warmup_steps: 21 is more than the 20 steps of the run; lower it"));
  }
}

}  // namespace
}  // namespace rankwise
