#include "trainer/lora/target_matching.h"

#include <gmock/gmock.h>

#include <cmath>

#include "tests/support/expect_error.h"
#include "tests/unit/lora/tiny_model.h"

namespace rankwise {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

std::vector<std::string> matched_names(const LoraConfig& config) {
  return names_of(match_targets(config, tiny_llama()));
}

TEST(MatchTargets, AllLinearIsEveryLinearLayerButTheOutputEmbedding) {
  const auto names = matched_names({});
  EXPECT_THAT(names, SizeIs(21));
  EXPECT_EQ(names.front(), "model.layers.0.self_attn.q_proj");  // the order of the model
  EXPECT_EQ(names.back(), "model.layers.2.mlp.down_proj");
}

TEST(MatchTargets, AListEntryIsAWholePathOrItsEndAfterADot) {
  EXPECT_THAT(matched_names({.target_modules = NameList{"q_proj"}}), SizeIs(3));
  EXPECT_THAT(matched_names({.target_modules = NameList{"proj"}}), IsEmpty());
  EXPECT_THAT(matched_names({.target_modules = NameList{"lm_head"}}), ElementsAre("lm_head"));
  EXPECT_THAT(matched_names({.target_modules = NameList{"1.self_attn.q_proj", "model.layers.2.mlp.up_proj"}}),
              ElementsAre("model.layers.1.self_attn.q_proj", "model.layers.2.mlp.up_proj"));
}

TEST(MatchTargets, ARegexMatchesTheWholePath) {
  EXPECT_THAT(matched_names({.target_modules = NameRegex{"q_proj"}}), IsEmpty());
  EXPECT_THAT(matched_names({.target_modules = NameRegex{R"(.*\.[02]\.self_attn\.(q|v)_proj)"}}), SizeIs(4));
}

TEST(MatchTargets, ExclusionWins) {
  EXPECT_THAT(matched_names({.target_modules = NameList{"q_proj", "k_proj"}, .exclude_modules = NameList{"q_proj"}}),
              SizeIs(3));
  EXPECT_THAT(matched_names({.exclude_modules = NameRegex{R"(.*\.[01]\..*)"}}), SizeIs(7));
}

TEST(MatchTargets, LayersFilterEndingsButNotWholePaths) {
  const LoraConfig config{.target_modules = NameList{"q_proj", "model.layers.0.mlp.up_proj"},
                          .layers_to_transform = {2}};
  EXPECT_THAT(matched_names(config), ElementsAre("model.layers.0.mlp.up_proj", "model.layers.2.self_attn.q_proj"));
}

TEST(MatchTargets, TheLayerIsTheFirstNumberOfThePath) {
  const std::vector<ModuleInfo> model{{"model.layers.1.experts.0.up", 4, 4}, {"model.layers.0.experts.1.up", 4, 4}};
  const LoraConfig first{.target_modules = NameList{"up"}, .layers_to_transform = {1}};
  EXPECT_THAT(names_of(match_targets(first, model)), ElementsAre("model.layers.1.experts.0.up"));
  const LoraConfig named{.target_modules = NameList{"up"}, .layers_to_transform = {1}, .layers_pattern = {"experts"}};
  EXPECT_THAT(names_of(match_targets(named, model)), ElementsAre("model.layers.0.experts.1.up"));
}

TEST(MatchTargets, TheFirstMatchingPatternDecides) {
  const LoraConfig config{.r = 8,
                          .lora_alpha = 16,
                          .target_modules = NameList{"q_proj"},
                          .rank_pattern = {{R"(layers\.1\.self_attn\.q_proj)", 2}, {"q_proj", 4}},
                          .alpha_pattern = {{"self_attn.q_proj", 3}, {"q_proj", 1}}};
  const auto matched = match_targets(config, tiny_llama());
  ASSERT_THAT(matched, SizeIs(3));
  EXPECT_EQ(matched[0].r, 4);
  EXPECT_EQ(matched[1].r, 2);
  EXPECT_EQ(matched[1].alpha, 3);
  EXPECT_EQ(matched[1].scaling, 1.5);
  EXPECT_EQ(matched[0].num_parameters(), 4 * (8 + 8));
}

TEST(MatchTargets, RankStabilisedScalingDividesByTheRoot) {
  const auto matched = match_targets({.r = 2, .lora_alpha = 3, .use_rslora = true}, tiny_llama());
  EXPECT_EQ(matched[0].scaling, 3 / std::sqrt(2.0));
}

TEST(MatchTargets, AnEmbeddingIsRefusedUnlessExcluded) {
  LoraConfig config{.target_modules = NameList{"q_proj", "embed_tokens"}};
  EXPECT_ERROR(match_targets(config, tiny_llama()), ConfigError, "model.embed_tokens, an embedding");
  config.exclude_modules = NameList{"embed_tokens"};
  EXPECT_THAT(matched_names(config), SizeIs(3));
}

TEST(MatchTargets, FieldsThatPeftRefusesTogetherAreRefused) {
  const auto model = tiny_llama();
  EXPECT_THROW(match_targets({.layers_to_transform = {1}}, model), ConfigError);
  EXPECT_THROW(match_targets({.target_modules = NameRegex{".*"}, .layers_to_transform = {1}}, model), ConfigError);
}

TEST(MatchTargets, NumbersOutOfRangeAreRefused) {
  const auto model = tiny_llama();
  EXPECT_ERROR(match_targets({.r = 0}, model), ConfigError, "lora.r: 0");
  EXPECT_THROW(match_targets({.r = 1 << 20}, model), ConfigError);
  EXPECT_THROW(match_targets({.lora_dropout = 1}, model), ConfigError);
  EXPECT_THROW(match_targets({.lora_dropout = NAN}, model), ConfigError);
  EXPECT_THROW(match_targets({.lora_alpha = INFINITY}, model), ConfigError);
  EXPECT_ERROR(match_targets({.rank_pattern = {{"q_proj", -1}}}, model), ConfigError, "lora.rank_pattern.q_proj: -1");
}

TEST(TargetModulesOf, OnlyTheWordInAnyCaseMeansAllLinear) {
  EXPECT_EQ(target_modules_of("All-Linear"), TargetModules(AllLinear{}));
  EXPECT_EQ(target_modules_of("all-linears"), TargetModules(NameRegex{"all-linears"}));
}

}  // namespace
}  // namespace rankwise
