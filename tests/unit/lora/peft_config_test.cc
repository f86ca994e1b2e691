#include "trainer/lora/peft_config.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "tests/support/expect_error.h"

namespace rankwise {
namespace {

using ::testing::ElementsAre;
using ::testing::Pair;

constexpr const char* kMinimal = R"({"peft_type": "LORA", "target_modules": ["q_proj"])";

// The minimal file with more fields.
LoraConfig parse(const std::string& more = "") {
  return parse_adapter_config(kMinimal + (more.empty() ? "" : ", " + more) + "}", "a.json").lora;
}
TEST(FormatAdapterConfig, WritesTheStableFieldsSortedAndIndented) {
  const LoraConfig lora{.r = 16,
                        .lora_alpha = 32,
                        .lora_dropout = 0.05,
                        .target_modules = NameList{"v_proj", "q_proj"},
                        .rank_pattern = {{"v_proj", 4}},
                        .alpha_pattern = {{"v_proj", 2.5}}};
  EXPECT_EQ(format_adapter_config({lora, "models/ä"}), R"({
  "alpha_pattern": {
    "v_proj": 2.5
  },
  "auto_mapping": null,
  "base_model_name_or_path": "models/\u00e4",
  "bias": "none",
  "exclude_modules": null,
  "fan_in_fan_out": false,
  "inference_mode": true,
  "init_lora_weights": true,
  "layer_replication": null,
  "layers_pattern": null,
  "layers_to_transform": null,
  "loftq_config": {},
  "lora_alpha": 32,
  "lora_bias": false,
  "lora_dropout": 0.05,
  "megatron_config": null,
  "megatron_core": "megatron.core",
  "modules_to_save": null,
  "peft_type": "LORA",
  "peft_version": "0.21.2",
  "r": 16,
  "rank_pattern": {
    "v_proj": 4
  },
  "revision": null,
  "target_modules": [
    "q_proj",
    "v_proj"
  ],
  "target_parameters": null,
  "task_type": "CAUSAL_LM",
  "trainable_token_indices": null,
  "use_dora": false,
  "use_rslora": false
})");
}

TEST(ParseAdapterConfig, MissingFieldsTakePeftsDefaults) {
  const LoraConfig config = parse();
  EXPECT_EQ(config.r, 8);
  EXPECT_EQ(config.lora_alpha, 8);
  EXPECT_EQ(config.lora_dropout, 0);
  EXPECT_EQ(config.target_modules, TargetModules(NameList{"q_proj"}));
  EXPECT_EQ(config.init_lora_weights, LoraInit::kKaiming);
  EXPECT_FALSE(config.use_rslora);
  EXPECT_EQ(parse_adapter_config(R"({"peft_type": "LORA"})", "a").lora.target_modules,
            TargetModules(NameList{"q_proj", "v_proj"}));
}

TEST(ParseAdapterConfig, ReadsBackWhatWasWritten) {
  const LoraConfig lora{.r = 4,
                        .lora_alpha = 0.5,
                        .lora_dropout = 0.1,
                        .target_modules = NameList{"a", "b"},
                        .exclude_modules = NameRegex{"c.*"},
                        .layers_to_transform = {1, 2},
                        .layers_pattern = {"layers"},
                        .rank_pattern = {{"a", 2}},
                        .alpha_pattern = {{"b", 7}},
                        .use_rslora = true,
                        .init_lora_weights = LoraInit::kGaussian};
  const std::string text = format_adapter_config({lora, "base"});
  const AdapterInfo read = parse_adapter_config(text, "a.json");
  EXPECT_EQ(read.base_model_name_or_path, "base");
  EXPECT_EQ(read.lora.rank_pattern, lora.rank_pattern);
  EXPECT_EQ(format_adapter_config(read), text);
}

TEST(ParseAdapterConfig, AStringIsARegexOrAllLinear) {
  const auto targets = [](const char* text) {
    return parse_adapter_config(std::string(R"({"peft_type": "LORA", "target_modules": ")") + text + "\"}", "a")
        .lora.target_modules;
  };
  EXPECT_EQ(targets("all-linear"), TargetModules(AllLinear{}));
  EXPECT_EQ(targets(".*q_proj"), TargetModules(NameRegex{".*q_proj"}));
}

TEST(ParseAdapterConfig, SingleValuesStandForListsOfOne) {
  const LoraConfig config = parse(R"("layers_to_transform": 3, "layers_pattern": "layers")");
  EXPECT_THAT(config.layers_to_transform, ElementsAre(3));
  EXPECT_THAT(config.layers_pattern, ElementsAre("layers"));
}

TEST(ParseAdapterConfig, KeepsTheOrderOfPatterns) {
  EXPECT_THAT(parse(R"("rank_pattern": {"z": 1, "a": 2})").rank_pattern, ElementsAre(Pair("z", 1), Pair("a", 2)));
}

TEST(ParseAdapterConfig, WhatIsNotPlainLoraIsNamedAndRefused) {
  EXPECT_ERROR(parse_adapter_config(R"({"peft_type": "LOHA"})", "a.json"), DataError,
               "a.json: peft_type: \"LOHA\" is not supported; supported: \"LORA\"");
  EXPECT_THROW(parse_adapter_config(R"({"r": 8})", "a.json"), DataError);
  for (const char* field :
       {R"("use_dora": true)", R"("bias": "all")", R"("modules_to_save": ["lm_head"])", R"("lora_bias": true)",
        R"("fan_in_fan_out": true)", R"("task_type": "SEQ_CLS")", R"("layer_replication": [[0, 2]])",
        R"("target_parameters": ["w"])", R"("trainable_token_indices": [1])", R"("use_qalora": true)",
        R"("megatron_config": {"a": 1})", R"("init_lora_weights": "pissa")", R"("init_lora_weights": "loftq")",
        R"("alora_invocation_tokens": [1])", R"("arrow_config": {"top_k": 1})", R"("a_later_field": 0.5)"}) {
    const std::string name = std::string(field).substr(1, std::string(field).find('"', 1) - 1);
    const std::string place = "a.json: " + name + ": ";
    EXPECT_ERROR(parse(field), DataError, place, "not supported");
  }
}

TEST(ParseAdapterConfig, NeutralUnknownFieldsPass) {
  EXPECT_NO_THROW(parse(R"("later_1": null, "later_2": false, "later_3": [], "later_4": {}, "merge_weights": false,
                      "megatron_core": "megatron.core", "qalora_group_size": 16, "init_lora_weights": "eva",
                      "eva_config": {"rho": 2.0}, "megatron_config": null, "inference_mode": true)"));
}

TEST(ParseAdapterConfig, WrongTypesAndRangesAreRefused) {
  for (const char* field :
       {R"("r": "8")", R"("r": -1)", R"("r": 1.5)", R"("lora_alpha": "1")", R"("use_rslora": 1)",
        R"("exclude_modules": 3)", R"("exclude_modules": [3])", R"("layers_to_transform": "1")",
        R"("layers_to_transform": [-1])", R"("rank_pattern": [1])", R"("rank_pattern": {"q": "x"})",
        R"("alpha_pattern": {"q": null, "q": 1})", R"("init_lora_weights": 3)", R"("base_model_name_or_path": 3)"})
    EXPECT_ERROR(parse(field), DataError, "a.json");
  for (const char* text : {"", "[]", "3", "null", R"({"peft_type": "LORA"} x)", R"({"peft_type": "LORA", "r": NaN})"})
    EXPECT_THROW(parse_adapter_config(text, "a.json"), DataError) << text;
}

TEST(ParseAdapterConfig, ALongValueIsCutInTheMessage) {
  EXPECT_ERROR(parse("\"later\": \"" + std::string(5000, 'x') + "\""), DataError, "xxxxx... is not supported");
}

}  // namespace
}  // namespace rankwise
