#include "trainer/weights/model_config.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "tests/support/expect_error.h"
#include "tests/support/scratch_directory.h"

namespace rankwise {
namespace {

using nlohmann::json;
using testing::ScratchDirectory;

// The smallest config of a family; `changes` is a JSON merge patch, so null removes a field.
json config_json(const std::string& model_type, const std::string& changes = "{}") {
  const std::map<std::string, std::string> architectures = {{"llama", "LlamaForCausalLM"},
                                                            {"mistral", "MistralForCausalLM"},
                                                            {"qwen2", "Qwen2ForCausalLM"},
                                                            {"qwen3", "Qwen3ForCausalLM"}};
  json config = {{"model_type", model_type}, {"architectures", {architectures.at(model_type)}},
                 {"vocab_size", 1000},       {"hidden_size", 64},
                 {"intermediate_size", 128}, {"num_hidden_layers", 4},
                 {"num_attention_heads", 8}, {"num_key_value_heads", 2}};
  config.merge_patch(json::parse(changes));
  return config;
}

ModelConfig parsed(const std::string& model_type, const std::string& changes = "{}") {
  return parse_model_config(config_json(model_type, changes).dump(), "config.json");
}

// With a field that is there and null, which a merge patch cannot say.
ModelConfig parsed_with_null(const std::string& model_type, const std::string& key, const std::string& changes = "{}") {
  json config = config_json(model_type, changes);
  config[key] = nullptr;
  return parse_model_config(config.dump(), "config.json");
}

TEST(ModelConfig, ReadsTheSizes) {
  const ModelConfig config =
      parsed("llama", R"({"max_position_embeddings":512,"rms_norm_eps":1e-5,"tie_word_embeddings":true})");
  EXPECT_EQ(config.architecture, "LlamaForCausalLM");
  EXPECT_EQ(config.vocab_size, 1000);
  EXPECT_EQ(config.hidden_size, 64);
  EXPECT_EQ(config.intermediate_size, 128);
  EXPECT_EQ(config.num_hidden_layers, 4);
  EXPECT_EQ(config.num_attention_heads, 8);
  EXPECT_EQ(config.num_key_value_heads, 2);
  EXPECT_EQ(config.head_dim, 8);
  EXPECT_EQ(config.max_position_embeddings, 512);
  EXPECT_EQ(config.rms_norm_eps, 1e-5);
  EXPECT_TRUE(config.tie_word_embeddings);
}

TEST(ModelConfig, FillsInTheDefaultsOfTheFamily) {
  EXPECT_EQ(parsed("llama").max_position_embeddings, 2048);
  EXPECT_EQ(parsed("mistral").max_position_embeddings, 131072);
  EXPECT_EQ(parsed("qwen3").head_dim, 128);
  EXPECT_EQ(parsed("llama", R"({"num_key_value_heads":null})").num_key_value_heads, 8);  // absent
  EXPECT_EQ(parsed("mistral", R"({"num_key_value_heads":null})").num_key_value_heads, 8);
  EXPECT_EQ(parsed_with_null("qwen2", "num_key_value_heads").num_key_value_heads, 8);
  EXPECT_EQ(parsed_with_null("mistral", "head_dim").head_dim, 8);
  EXPECT_EQ(parsed("mistral", R"({"head_dim":32})").head_dim, 32);
  EXPECT_EQ(parsed("qwen3", R"({"hidden_size":60})").hidden_size, 60);  // its head_dim is not derived from it
  EXPECT_FALSE(parsed("qwen2").tie_word_embeddings);
  EXPECT_NO_THROW(parsed("llama", R"({"architectures":null})"));
}

TEST(ModelConfig, KnowsWhichProjectionsHaveABias) {
  struct Case {
    const char* family;
    const char* changes;
    bool qkv, output, mlp, qk_norm;
  };
  const Case cases[] = {
      {"llama", "{}", false, false, false, false},
      {"llama", R"({"attention_bias":true,"mlp_bias":true})", true, true, true, false},
      {"mistral", R"({"attention_bias":true})", false, false, false, false},  // not a field of that family
      {"qwen2", "{}", true, false, false, false},
      {"qwen3", "{}", false, false, false, true},
      {"qwen3", R"({"attention_bias":true})", true, true, false, true},
  };
  for (const Case& c : cases) {
    const ModelConfig config = parsed(c.family, c.changes);
    EXPECT_EQ(config.attention_bias, c.qkv) << c.family << c.changes;
    EXPECT_EQ(config.attention_output_bias, c.output) << c.family << c.changes;
    EXPECT_EQ(config.mlp_bias, c.mlp) << c.family << c.changes;
    EXPECT_EQ(config.qk_norm, c.qk_norm) << c.family << c.changes;
  }
}

TEST(ModelConfig, ReadsRopeInBothSpellings) {
  EXPECT_EQ(parsed("llama").rope_theta, 10000.0);
  EXPECT_EQ(parsed("llama", R"({"rope_theta":500000})").rope_theta, 500000.0);
  EXPECT_EQ(parsed("llama", R"({"rope_parameters":{"rope_type":"default","rope_theta":1e6}})").rope_theta, 1e6);
  EXPECT_EQ(parsed("llama", R"({"rope_scaling":{"type":"linear","factor":2}})").linear_rope_factor, 2.0);
  EXPECT_FALSE(parsed("llama", R"({"rope_scaling":{},"rope_parameters":{"rope_theta":1e6}})").linear_rope_factor);

  const char* llama3 = R"("rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0)";
  const ModelConfig v4 = parsed(
      "llama",
      fmt::format(R"({{"rope_theta":5e5,"rope_scaling":{{{},"original_max_position_embeddings":8192}}}})", llama3));
  const ModelConfig v5 = parsed(
      "llama",
      fmt::format(R"({{"rope_parameters":{{{},"rope_theta":5e5,"original_max_position_embeddings":8192}}}})", llama3));
  for (const ModelConfig& config : {v4, v5}) {
    EXPECT_EQ(config.rope_theta, 5e5);
    ASSERT_TRUE(config.rope_scaling);
    EXPECT_EQ(config.rope_scaling->factor, 8.0);
    EXPECT_EQ(config.rope_scaling->low_freq_factor, 1.0);
    EXPECT_EQ(config.rope_scaling->high_freq_factor, 4.0);
    EXPECT_EQ(config.rope_scaling->original_max_position_embeddings, 8192);
  }
  EXPECT_EQ(parsed("llama", fmt::format(R"({{"rope_scaling":{{{}}}}})", llama3))
                .rope_scaling->original_max_position_embeddings,
            2048);
}

TEST(ModelConfig, FindsTheSlidingLayersOfEachFamily) {
  using Layers = std::vector<bool>;
  const Layers none(4, false), all(4, true), upper = {false, false, true, true};
  struct Case {
    const char* family;
    const char* changes;
    std::optional<int64_t> window;
    Layers layers;
  };
  const Case cases[] = {
      {"llama", R"({"sliding_window":16})", std::nullopt, none},  // not a field of that family
      {"mistral", "{}", 4096, all},
      {"mistral", R"({"sliding_window":16})", 16, all},
      {"qwen2", R"({"sliding_window":16,"max_window_layers":2})", std::nullopt, none},
      {"qwen2", R"({"use_sliding_window":true,"sliding_window":16,"max_window_layers":2})", 16, upper},
      {"qwen2", R"({"use_sliding_window":true,"sliding_window":16})", std::nullopt, none},  // 28 full layers first
      {"qwen3", R"({"use_sliding_window":true,"max_window_layers":0})", 4096, all},
      {"qwen3", R"({"use_sliding_window":true,"sliding_window":16,
                    "layer_types":["full_attention","full_attention","sliding_attention","sliding_attention"]})",
       16, upper},
      {"qwen2", R"({"layer_types":["full_attention","full_attention","full_attention","full_attention"]})",
       std::nullopt, none},
  };
  for (const Case& c : cases) {
    const ModelConfig config = parsed(c.family, c.changes);
    EXPECT_EQ(config.sliding_window, c.window) << c.family << c.changes;
    EXPECT_EQ(config.layer_is_sliding, c.layers) << c.family << c.changes;
  }
  EXPECT_EQ(parsed_with_null("mistral", "sliding_window").layer_is_sliding, none);
}

TEST(ModelConfig, ReadsDtypeInBothSpellings) {
  EXPECT_EQ(parsed("llama").dtype, Dtype::kF32);
  EXPECT_EQ(parsed("llama", R"({"torch_dtype":"bfloat16"})").dtype, Dtype::kBF16);
  EXPECT_EQ(parsed("llama", R"({"dtype":"float16","torch_dtype":"float32"})").dtype, Dtype::kF16);
  EXPECT_EQ(parsed("llama", R"({"dtype":"float64"})").dtype, Dtype::kF64);
}

TEST(ModelConfig, ReadsTokenIdsAsOneOrAsAList) {
  const ModelConfig config = parsed("llama", R"({"bos_token_id":5,"eos_token_id":[7,8],"pad_token_id":-1})");
  EXPECT_EQ(config.bos_token_id, 5);
  EXPECT_EQ(config.eos_token_ids, (std::vector<int64_t>{7, 8}));
  EXPECT_EQ(config.pad_token_id, std::nullopt);
  EXPECT_EQ(parsed("llama").eos_token_ids, std::vector<int64_t>{2});
  EXPECT_TRUE(parsed("qwen2").eos_token_ids.empty());
  EXPECT_TRUE(parsed_with_null("llama", "eos_token_id").eos_token_ids.empty());
  EXPECT_EQ(parsed_with_null("llama", "bos_token_id").bos_token_id, std::nullopt);
}

TEST(ModelConfig, IgnoresWhatDoesNotChangeTheResult) {
  EXPECT_NO_THROW(
      parsed("llama", R"({"use_cache":true,"initializer_range":0.02,"transformers_version":"4.40.1","_name_or_path":"x",
      "quantization_config":null,"hidden_act":"silu","pretraining_tp":1,"attention_dropout":0.0,"id2label":{"0":"a"},
      "auto_map":{"AutoModelForCausalLM":"modeling_x.X"},"rope_scaling":{},"partial_rotary_factor":1.0})"));
}

struct BadConfig {
  const char* family;
  const char* changes;
  const char* message;
};

TEST(ModelConfig, RefusesAndNamesTheField) {
  const BadConfig cases[] = {
      // sizes
      {"llama", R"({"vocab_size":0})", "vocab_size: 0: must be an integer from 1"},
      {"llama", R"({"vocab_size":null})", "vocab_size: missing: must be"},
      {"llama", R"({"hidden_size":-64})", "hidden_size: -64: must be"},
      {"llama", R"({"hidden_size":2147483648})", "hidden_size: 2147483648: must be"},
      {"llama", R"({"hidden_size":18446744073709551615})", "hidden_size: 18446744073709551615: must be"},
      {"llama", R"({"hidden_size":64.0})", "hidden_size: 64.0: must be"},
      {"llama", R"({"hidden_size":"64"})", "hidden_size: \"64\": must be"},
      {"llama", R"({"hidden_size":true})", "hidden_size: true: must be"},
      {"llama", R"({"hidden_size":60})", "hidden_size: 60: must be a multiple of num_attention_heads, 8"},
      {"llama", R"({"hidden_size":60,"head_dim":8})", "hidden_size: 60: must be a multiple"},
      {"qwen2", R"({"hidden_size":60})", "hidden_size: 60: must be a multiple"},
      {"llama", R"({"intermediate_size":0})", "intermediate_size: 0"},
      {"llama", R"({"num_hidden_layers":1000000000})",
       "num_hidden_layers: 1000000000: must be an integer from 1 to 10000"},
      {"llama", R"({"num_attention_heads":0})", "num_attention_heads: 0"},
      {"llama", R"({"num_key_value_heads":16})",
       "num_key_value_heads: 16: num_attention_heads, 8, must be a multiple of 16"},
      {"llama", R"({"num_key_value_heads":3})", "num_key_value_heads: 3: num_attention_heads, 8"},
      {"mistral", R"({"num_attention_heads":4,"num_key_value_heads":null})",
       "num_key_value_heads: missing: num_attention_heads, 4, must be a multiple of 8"},
      {"llama", R"({"num_key_value_heads":0})", "num_key_value_heads: 0"},
      {"qwen3", R"({"head_dim":0})", "head_dim: 0"},
      {"qwen3", R"({"head_dim":7})", "head_dim: 7: must be even"},
      {"llama", R"({"max_position_embeddings":0})", "max_position_embeddings: 0"},
      {"llama", R"({"rms_norm_eps":0})", "rms_norm_eps: 0: must be a number"},
      {"llama", R"({"rms_norm_eps":"1e-5"})", "rms_norm_eps: \"1e-5\": must be a number"},
      {"llama", R"({"tie_word_embeddings":1})", "tie_word_embeddings: 1: must be true or false"},
      // architecture
      {"llama", R"({"model_type":null})", "model_type: missing: supported: llama, mistral, qwen2, qwen3"},
      {"llama", R"({"model_type":"gpt2"})", "model_type: \"gpt2\": supported: llama, mistral, qwen2, qwen3"},
      {"llama", R"({"model_type":7})", "model_type: 7: must be a string"},
      {"llama", R"({"architectures":["LlamaForSequenceClassification"]})",
       "must be [\"LlamaForCausalLM\"] for model_type llama"},
      {"llama", R"({"architectures":["Qwen2ForCausalLM"]})", "architectures: [\"Qwen2ForCausalLM\"]: must be"},
      {"llama", R"({"architectures":[]})", "architectures: []: must be"},
      {"llama", R"({"hidden_act":"gelu"})", "hidden_act: \"gelu\": supported: silu"},
      {"llama", R"({"pretraining_tp":2})", "pretraining_tp: 2: supported: 1"},
      {"llama", R"({"attention_dropout":0.1})", "attention_dropout: 0.1: dropout inside attention"},
      {"llama", R"({"quantization_config":{"quant_method":"gptq"}})",
       "quantized weights are not read; use the original"},
      {"llama", R"({"per_layer_config":{"0":{}}})", "per_layer_config: {\"0\":{}}: "},
      {"llama", R"({"dtype":"float8_e4m3fn"})", "dtype: \"float8_e4m3fn\": supported: float32"},
      {"llama", R"({"torch_dtype":"int8"})", "torch_dtype: \"int8\": supported"},
      // rope
      {"llama", R"({"rope_theta":0})", "rope_theta: 0: must be a number from 1"},
      {"llama", R"({"rope_theta":"1e4"})", "rope_theta: \"1e4\": must be a number"},
      {"llama", R"({"rope_theta":1e300})", "rope_theta: 1e+300: must be"},
      {"llama", R"({"rope_theta":1e4,"rope_parameters":{"rope_theta":5e5}})",
       "rope_parameters: rope_theta: 500000.0: disagrees"},
      {"llama", R"({"rope_scaling":[2]})", "config.json: rope_scaling: expected an object, found array"},
      {"llama", R"({"rope_scaling":{"type":"linear","factor":2},"rope_parameters":{"rope_theta":1e4}})",
       "rope_parameters is there too"},
      {"llama", R"({"rope_scaling":{"rope_type":"yarn","factor":4.0}})",
       "rope_scaling: rope_type: \"yarn\": supported: default, linear, llama3"},
      {"llama", R"({"rope_scaling":{"type":"dynamic","factor":4.0}})", "rope_scaling: type: \"dynamic\": supported"},
      {"llama", R"({"rope_scaling":{"type":"linear"}})", "rope_scaling: factor: missing: must be a number"},
      {"llama", R"({"rope_scaling":{"type":"linear","factor":0}})", "rope_scaling: factor: 0: must be"},
      {"llama", R"({"rope_scaling":{"rope_type":"llama3","factor":8.0,"low_freq_factor":1.0}})",
       "high_freq_factor: missing"},
      {"llama", R"({"rope_scaling":{"rope_type":"llama3","factor":8.0,"low_freq_factor":4.0,"high_freq_factor":4.0}})",
       "low_freq_factor: 4.0: must be below"},
      {"llama", R"({"rope_parameters":{"full_attention":{"rope_type":"default"}}})",
       "rope_parameters: full_attention: {\"rope_type\":\"default\"}: not supported"},
      {"llama", R"({"partial_rotary_factor":0.5})", "config.json: partial_rotary_factor: 0.5: supported: 1"},
      {"llama", R"({"rope_parameters":{"partial_rotary_factor":0.5}})",
       "rope_parameters: partial_rotary_factor: 0.5: supported: 1"},
      // attention window
      {"mistral", R"({"sliding_window":0})", "sliding_window: 0: must be"},
      {"qwen2", R"({"use_sliding_window":"yes"})", "use_sliding_window: \"yes\": must be true or false"},
      {"qwen2", R"({"layer_types":["full_attention"]})",
       "layer_types: [\"full_attention\"]: must name one type for each of the 4"},
      {"qwen2", R"({"num_hidden_layers":1,"layer_types":["chunked_attention"]})",
       "supported: full_attention, sliding_attention"},
      {"qwen2", R"({"num_hidden_layers":1,"layer_types":["sliding_attention"]})",
       "sliding_attention without a sliding_window"},
      {"mistral", R"({"num_hidden_layers":1,"layer_types":["full_attention"]})", "in mistral all layers are alike"},
      // tokens
      {"llama", R"({"bos_token_id":1000})", "bos_token_id: 1000: must be ids from 0 to 999"},
      {"llama", R"({"eos_token_id":[2,-1]})", "eos_token_id: [2,-1]: must be ids"},
      {"llama", R"({"eos_token_id":"</s>"})", "eos_token_id: \"</s>\": must be ids"},
      {"llama", R"({"pad_token_id":18446744073709551615})", "pad_token_id: 18446744073709551615: must be ids"},
      {"llama", R"({"bos_token_id":[1,2]})", "bos_token_id: [1,2]: must be one id"},
  };
  for (const BadConfig& bad : cases) {
    SCOPED_TRACE(bad.changes);
    EXPECT_ERROR(parsed(bad.family, bad.changes), DataError, "config.json", bad.message);
  }
}

TEST(ModelConfig, RefusesTextThatIsNoObject) {
  EXPECT_ERROR(parse_model_config("[]", "config.json"), DataError, "config.json: expected an object, found array");
  EXPECT_ERROR(parse_model_config("{\"rope_theta\": NaN}", "config.json"), DataError, "config.json:1:16: syntax error");
  EXPECT_ERROR(parse_model_config(R"({"hidden_size":1,"hidden_size":1})", "config.json"), DataError, "duplicate key");
}

TEST(ReadModelConfig, CompletesTheEndOfSequenceIds) {
  const ScratchDirectory scratch;
  scratch.add("config.json", config_json("qwen2", R"({"eos_token_id":7})").dump());
  EXPECT_EQ(read_model_config(scratch.path()).eos_token_ids, std::vector<int64_t>{7});
  scratch.add("generation_config.json", R"({"eos_token_id":[9,7]})");
  EXPECT_EQ(read_model_config(scratch.path()).eos_token_ids, (std::vector<int64_t>{7, 9}));
  scratch.add("generation_config.json", R"({"eos_token_id":1000})");
  EXPECT_ERROR(read_model_config(scratch.path()), DataError, "generation_config.json: eos_token_id: 1000");
}

TEST(ReadModelConfig, WarnsThatRemoteCodeIsIgnored) {
  const ScratchDirectory scratch;
  scratch.add("config.json", config_json("llama", R"({"auto_map":{"AutoConfig":"x.X"}})").dump());
  ::testing::internal::CaptureStderr();
  EXPECT_NO_THROW(read_model_config(scratch.path()));
  EXPECT_NE(::testing::internal::GetCapturedStderr().find("auto_map"), std::string::npos);
}

TEST(ReadModelConfig, NamesAMissingFile) {
  const ScratchDirectory scratch;
  EXPECT_ERROR(read_model_config(scratch.path()), NoInputError, "config.json: no such file");
}

}  // namespace
}  // namespace rankwise
