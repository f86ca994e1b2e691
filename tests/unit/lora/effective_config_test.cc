#include "trainer/lora/effective_config.h"

#include <gmock/gmock.h>

#include "tests/support/expect_error.h"
#include "tests/unit/lora/tiny_model.h"

namespace rankwise {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;

LoraConfig effective(const LoraConfig& config) {
  const auto model = tiny_llama();
  return effective_config(config, model, match_targets(config, model));
}

NameList targets(const LoraConfig& config) { return std::get<NameList>(effective(config).target_modules); }

TEST(EffectiveConfig, UsesLastComponentsWhereTheySayTheSame) {
  EXPECT_THAT(targets({}), ElementsAre("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"));
  EXPECT_THAT(targets({.target_modules = NameRegex{".*self_attn.*(v|q)_proj"}}), ElementsAre("q_proj", "v_proj"));
}

TEST(EffectiveConfig, SpellsOutWhatLastComponentsCannotSay) {
  const LoraConfig config{.target_modules = NameList{"q_proj", "v_proj"},
                          .exclude_modules = NameList{"model.layers.1.self_attn.v_proj"}};
  EXPECT_THAT(targets(config),
              ElementsAre("model.layers.0.self_attn.v_proj", "model.layers.2.self_attn.v_proj", "q_proj"));
  const LoraConfig layer{
      .target_modules = NameList{"q_proj"}, .layers_to_transform = {1}, .layers_pattern = {"layers"}};
  EXPECT_THAT(targets(layer), ElementsAre("model.layers.1.self_attn.q_proj"));
  EXPECT_THAT(effective(layer).layers_to_transform, IsEmpty());
  EXPECT_THAT(effective(layer).layers_pattern, IsEmpty());
}

TEST(EffectiveConfig, ValuesThatAllShareNeedNoPattern) {
  const LoraConfig config = effective({.r = 8, .rank_pattern = {{".*", 4}}, .alpha_pattern = {{".*_proj", 2}}});
  EXPECT_EQ(config.r, 4);
  EXPECT_EQ(config.lora_alpha, 2);
  EXPECT_THAT(config.rank_pattern, IsEmpty());
  EXPECT_THAT(config.alpha_pattern, IsEmpty());
}

TEST(EffectiveConfig, TheUsersValueStaysWhereNoOtherIsMoreFrequent) {
  const LoraConfig config =
      effective({.r = 8, .target_modules = NameList{"q_proj", "k_proj"}, .rank_pattern = {{"k_proj", 4}}});
  EXPECT_EQ(config.r, 8);
  EXPECT_THAT(config.rank_pattern, ElementsAre(Pair("k_proj", 4)));
}

// Sorted, ".*_proj" would come first and take everything.
TEST(EffectiveConfig, PatternsDoNotDependOnTheirOrder) {
  const LoraConfig config = effective({.target_modules = NameList{"q_proj", "k_proj", "v_proj"},
                                       .rank_pattern = {{"q_proj", 2}, {R"(.*\.1\..*v_proj)", 3}, {".*_proj", 4}}});
  EXPECT_EQ(config.r, 4);
  EXPECT_THAT(config.rank_pattern, ElementsAre(Pair(R"(model\.layers\.1\.self_attn\.v_proj)", 3), Pair("q_proj", 2)));
}

TEST(EffectiveConfig, NamesThatOneRuleCannotTellApartAreAnError) {
  // "x" is also an ending of "y.x": no list of names can choose the first alone.
  const std::vector<ModuleInfo> model{{"x", 2, 2}, {"y.x", 2, 2}};
  const LoraConfig config{.target_modules = NameRegex{"x"}};
  EXPECT_ERROR(effective_config(config, model, match_targets(config, model)), Error, "told apart");
}

TEST(EffectiveConfig, KeepsTheRest) {
  const LoraConfig config =
      effective({.lora_dropout = 0.25, .use_rslora = true, .init_lora_weights = LoraInit::kGaussian});
  EXPECT_EQ(config.lora_dropout, 0.25);
  EXPECT_TRUE(config.use_rslora);
  EXPECT_EQ(config.init_lora_weights, LoraInit::kGaussian);
}

}  // namespace
}  // namespace rankwise
