#include "trainer/lora/target_check.h"

#include <gmock/gmock.h>

#include "tests/support/expect_error.h"
#include "tests/unit/lora/tiny_model.h"

namespace rankwise {
namespace {

using ::testing::SizeIs;

std::vector<MatchedModule> resolve(const LoraConfig& config) { return resolve_targets(config, tiny_llama()); }

TEST(ResolveTargets, AMisspeltTargetNamesTheNearestModule) {
  EXPECT_ERROR(resolve({.target_modules = NameList{"v_proj", "q_porj"}}), ConfigError,
               "lora.target_modules: \"q_porj\" matches no module of this model; nearest: q_proj (3 modules)");
}

TEST(ResolveTargets, ATargetThatIsTakenOutAgainIsRefused) {
  EXPECT_ERROR(resolve({.target_modules = NameList{"q_proj", "k_proj"}, .exclude_modules = NameList{"k_proj"}}),
               ConfigError, "every module that \"k_proj\" matches is taken out again");
}

TEST(ResolveTargets, ARegexWithoutMatchShowsAPath) {
  EXPECT_ERROR(resolve({.target_modules = NameRegex{"q_proj"}}), ConfigError,
               "\"q_proj\" leaves no module of this model to train; a regex must match a whole path");
  EXPECT_ERROR(resolve({.target_modules = NameList{}}), ConfigError, "leaves no module");
}

TEST(ResolveTargets, AnExclusionThatExcludesNothingIsRefused) {
  EXPECT_ERROR(resolve({.exclude_modules = NameList{"lm_heat"}}), ConfigError, "nearest: lm_head (1 module)");
  EXPECT_ERROR(resolve({.exclude_modules = NameRegex{"lm_.*d_proj"}}), ConfigError, "lora.exclude_modules");
  EXPECT_NO_THROW(resolve({.exclude_modules = NameList{"lm_head"}}));
}

TEST(ResolveTargets, ALayerThatIsNotThereIsRefused) {
  LoraConfig config{.target_modules = NameList{"q_proj"}, .layers_to_transform = {0, 3}};
  EXPECT_ERROR(resolve(config), ConfigError,
               "lora.layers_to_transform: 3 is no layer of this model; its layers are 0 to 2");
  config.layers_pattern = {"blocks"};
  EXPECT_ERROR(resolve(config), ConfigError, "lora.layers_pattern: [\"blocks\"]");
  config.layers_to_transform = {};
  EXPECT_ERROR(resolve(config), ConfigError, "lora.layers_pattern: has no effect");
}

TEST(ResolveTargets, APatternKeyWithoutEffectIsRefused) {
  EXPECT_ERROR(resolve({.rank_pattern = {{"q_prj", 4}}}), ConfigError,
               "lora.rank_pattern: \"q_prj\" matches none of the modules that carry an adapter; nearest of the model: "
               "q_proj (3 modules)");
  EXPECT_ERROR(resolve({.target_modules = NameList{"q_proj"}, .alpha_pattern = {{"k_proj", 4}}}), ConfigError,
               "lora.alpha_pattern: \"k_proj\"");
  EXPECT_ERROR(resolve({.rank_pattern = {{".*_proj", 4}, {"q_proj", 2}}}), ConfigError,
               "lora.rank_pattern: \"q_proj\" never decides", "an earlier key matches each");
}

TEST(ResolveTargets, WhatHasAnEffectPasses) {
  const LoraConfig config{.target_modules = NameList{"q_proj", "self_attn.q_proj", "v_proj"},
                          .exclude_modules = NameList{"model.layers.1.self_attn.v_proj"},
                          .layers_to_transform = {0, 1},
                          .layers_pattern = {"layers"},
                          .rank_pattern = {{"q_proj", 2}},
                          .alpha_pattern = {{".*", 2}}};
  EXPECT_THAT(resolve(config), SizeIs(3));
}

}  // namespace
}  // namespace rankwise
