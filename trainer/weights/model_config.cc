#include "trainer/weights/model_config.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/check.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "trainer/weights/config_fields.h"

namespace rankwise {
namespace fs = std::filesystem;
namespace {

using nlohmann::json;

constexpr JsonLimits kLimits{.max_bytes = 16 << 20, .max_depth = 64, .max_values = 1 << 20};
// Far above any model, and small enough that no product of two of them leaves 64 bits.
constexpr int64_t kMaxVocabulary = 1 << 24;
constexpr int64_t kMaxWidth = 1 << 22;
constexpr int64_t kMaxLayers = 10'000;
constexpr int64_t kMaxHeads = 1 << 16;
constexpr int64_t kMaxPositions = (1ll << 31) - 1;
constexpr double kLargest = 1e30;
constexpr double kSmallestEps = 1e-30;

// What transformers' config class assumes where a field is absent (0: derived from other fields).
struct Family {
  std::string_view model_type;
  std::string_view architecture;
  int64_t num_key_value_heads;
  int64_t head_dim;
  int64_t max_position_embeddings;
  std::optional<int64_t> bos_token_id;
  std::optional<int64_t> eos_token_id;
};
constexpr std::array kFamilies = {
    Family{"llama", "LlamaForCausalLM", 0, 0, 2048, 1, 2},
    Family{"mistral", "MistralForCausalLM", 8, 0, 131072, 1, 2},
    Family{"qwen2", "Qwen2ForCausalLM", 32, 0, 32768, std::nullopt, std::nullopt},
    Family{"qwen3", "Qwen3ForCausalLM", 32, 128, 32768, std::nullopt, std::nullopt},
};

std::string supported(std::string_view Family::*member) {
  std::vector<std::string_view> names;
  for (const Family& family : kFamilies) names.push_back(family.*member);
  return fmt::format("supported: {}", fmt::join(names, ", "));
}

const Family& find_family(const ConfigFields& fields) {
  const auto model_type = fields.text("model_type");
  if (!model_type) fields.refuse("model_type", supported(&Family::model_type));
  const auto* family = std::ranges::find(kFamilies, *model_type, &Family::model_type);
  if (family == kFamilies.end()) fields.refuse("model_type", supported(&Family::model_type));
  const json* architectures = fields.get("architectures");
  if (architectures && *architectures != json::array({family->architecture})) {
    fields.refuse("architectures",
                  fmt::format("must be [\"{}\"] for model_type {}", family->architecture, *model_type));
  }
  return *family;
}

// Fields that are neutral in nearly every model and change the result where they are not.
void refuse_unsupported(const ConfigFields& fields) {
  if (fields.get("quantization_config")) {
    fields.refuse("quantization_config", "quantized weights are not read; use the original 16- or 32-bit model");
  }
  if (fields.get("per_layer_config")) fields.refuse("per_layer_config", "layers that differ are not supported");
  if (fields.text("hidden_act").value_or("silu") != "silu") fields.refuse("hidden_act", "supported: silu");
  if (fields.integer("pretraining_tp", 1, kMaxHeads).value_or(1) != 1) fields.refuse("pretraining_tp", "supported: 1");
  if (fields.number("attention_dropout", 0, 1).value_or(0) != 0) {
    fields.refuse("attention_dropout", "dropout inside attention is not supported; set it to 0.0");
  }
}

void read_sizes(const ConfigFields& fields, const Family& family, ModelConfig& config) {
  config.vocab_size = fields.required_integer("vocab_size", 1, kMaxVocabulary);
  config.hidden_size = fields.required_integer("hidden_size", 1, kMaxWidth);
  config.intermediate_size = fields.required_integer("intermediate_size", 1, kMaxWidth);
  config.num_hidden_layers = fields.required_integer("num_hidden_layers", 1, kMaxLayers);
  config.max_position_embeddings =
      fields.integer("max_position_embeddings", 1, kMaxPositions).value_or(family.max_position_embeddings);

  const int64_t heads = config.num_attention_heads = fields.required_integer("num_attention_heads", 1, kMaxHeads);
  const bool one_for_each = family.num_key_value_heads == 0 || !fields.is_absent("num_key_value_heads");
  config.num_key_value_heads =
      fields.integer("num_key_value_heads", 1, kMaxHeads).value_or(one_for_each ? heads : family.num_key_value_heads);
  if (heads % config.num_key_value_heads != 0) {
    fields.refuse("num_key_value_heads",
                  fmt::format("num_attention_heads, {}, must be a multiple of {}", heads, config.num_key_value_heads));
  }

  const auto head_dim = fields.integer("head_dim", 1, kMaxWidth);
  const bool derived = !head_dim && family.head_dim == 0;
  if ((derived || family.model_type == "llama") && config.hidden_size % heads != 0) {
    fields.refuse("hidden_size", fmt::format("must be a multiple of num_attention_heads, {}", heads));
  }
  config.head_dim = head_dim.value_or(derived ? config.hidden_size / heads : family.head_dim);
  RW_CHECK(config.head_dim % 2 == 0, DataError, "{}: head_dim: {}: must be even, rotary embedding turns pairs",
           fields.place(), config.head_dim);
}

// rope_scaling (transformers 4) or rope_parameters (transformers 5); an empty one counts as absent.
ConfigFields rope_fields(const ConfigFields& fields) {
  static const json kNone = json::object();
  const json* scaling = fields.get("rope_scaling");
  const json* parameters = fields.get("rope_parameters");
  if (scaling && scaling->empty()) scaling = nullptr;
  if (scaling && parameters) fields.refuse("rope_scaling", "rope_parameters is there too; remove one of them");
  const std::string_view name = scaling ? "rope_scaling" : "rope_parameters";
  ConfigFields rope(scaling ? *scaling : parameters ? *parameters : kNone, fmt::format("{}: {}", fields.place(), name));
  constexpr std::array<std::string_view, 8> kKnown = {"rope_type",
                                                      "type",
                                                      "rope_theta",
                                                      "factor",
                                                      "low_freq_factor",
                                                      "high_freq_factor",
                                                      "original_max_position_embeddings",
                                                      "partial_rotary_factor"};
  for (const auto& item : (scaling ? *scaling : parameters ? *parameters : kNone).items()) {
    if (std::ranges::find(kKnown, item.key()) == kKnown.end()) rope.refuse(item.key(), "not supported");
  }
  return rope;
}

void read_rope(const ConfigFields& fields, ModelConfig& config) {
  constexpr double kSmallest = 1e-6;
  const ConfigFields rope = rope_fields(fields);
  for (const ConfigFields* place : {&fields, &rope}) {
    if (place->number("partial_rotary_factor", 0, 1).value_or(1) != 1)
      place->refuse("partial_rotary_factor", "supported: 1");
  }
  const auto outer_theta = fields.number("rope_theta", 1, kLargest);
  const auto theta = rope.number("rope_theta", 1, kLargest);
  if (theta && outer_theta && *theta != *outer_theta) {
    rope.refuse("rope_theta", fmt::format("disagrees with the outer rope_theta, {}", *outer_theta));
  }
  config.rope_theta = theta ? *theta : outer_theta.value_or(10000.0);

  const std::string_view type_key = rope.get("rope_type") ? "rope_type" : "type";
  const std::string type = rope.text(type_key).value_or("default");
  if (type == "linear") {
    config.linear_rope_factor = rope.required_number("factor", kSmallest, kLargest);
  } else if (type == "llama3") {
    const int64_t original =
        rope.integer("original_max_position_embeddings", 1, kMaxPositions).value_or(config.max_position_embeddings);
    config.rope_scaling =
        Llama3RopeScaling{.factor = rope.required_number("factor", kSmallest, kLargest),
                          .low_freq_factor = rope.required_number("low_freq_factor", kSmallest, kLargest),
                          .high_freq_factor = rope.required_number("high_freq_factor", kSmallest, kLargest),
                          .original_max_position_embeddings =
                              fields.integer("original_max_position_embeddings", 1, kMaxPositions).value_or(original)};
    if (config.rope_scaling->low_freq_factor >= config.rope_scaling->high_freq_factor) {
      rope.refuse("low_freq_factor",
                  fmt::format("must be below high_freq_factor, {}", config.rope_scaling->high_freq_factor));
    }
  } else if (type != "default") {
    rope.refuse(type_key, "supported: default, linear, llama3");
  }
}

std::optional<std::vector<bool>> listed_layer_types(const ConfigFields& fields, int64_t num_layers) {
  const json* listed = fields.get("layer_types");
  if (!listed) return std::nullopt;
  if (!listed->is_array() || listed->size() != static_cast<size_t>(num_layers)) {
    fields.refuse("layer_types", fmt::format("must name one type for each of the {} layers", num_layers));
  }
  std::vector<bool> is_sliding;
  for (const json& type : *listed) {
    if (type != "full_attention" && type != "sliding_attention") {
      fields.refuse("layer_types", "supported: full_attention, sliding_attention");
    }
    is_sliding.push_back(type == "sliding_attention");
  }
  return is_sliding;
}

void read_sliding_window(const ConfigFields& fields, ModelConfig& config) {
  constexpr int64_t kDefaultWindow = 4096, kDefaultFirstLayer = 28;
  const bool is_qwen = config.model_type.starts_with("qwen");
  const bool has_window = is_qwen ? fields.flag("use_sliding_window").value_or(false) : config.model_type == "mistral";
  if (has_window) {
    config.sliding_window =
        fields.is_absent("sliding_window") ? kDefaultWindow : fields.integer("sliding_window", 1, kMaxPositions);
  }
  const int64_t first =
      is_qwen ? fields.integer("max_window_layers", 0, kMaxPositions).value_or(kDefaultFirstLayer) : 0;
  std::vector<bool>& is_sliding = config.layer_is_sliding;
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) is_sliding.push_back(config.sliding_window && i >= first);

  if (const auto listed = listed_layer_types(fields, config.num_hidden_layers)) {
    const bool any = std::ranges::find(*listed, true) != listed->end();
    if (any && !config.sliding_window) fields.refuse("layer_types", "sliding_attention without a sliding_window");
    if (!is_qwen && *listed != is_sliding) {
      fields.refuse("layer_types", fmt::format("in {} all layers are alike, by sliding_window", config.model_type));
    }
    is_sliding = *listed;
  }
  if (std::ranges::find(is_sliding, true) == is_sliding.end()) config.sliding_window.reset();
}

void read_biases(const ConfigFields& fields, ModelConfig& config) {
  const bool chosen = fields.flag("attention_bias").value_or(false);
  const bool choosable = config.model_type == "llama" || config.model_type == "qwen3";
  config.attention_output_bias = choosable && chosen;
  config.attention_bias = config.attention_output_bias || config.model_type == "qwen2";
  config.mlp_bias = config.model_type == "llama" && fields.flag("mlp_bias").value_or(false);
  config.qk_norm = config.model_type == "qwen3";
}

Dtype read_dtype(const ConfigFields& fields) {
  const std::string_view key = fields.get("dtype") ? "dtype" : "torch_dtype";
  const std::string name = fields.text(key).value_or("float32");
  if (name == "float32") return Dtype::kF32;
  if (name == "bfloat16") return Dtype::kBF16;
  if (name == "float16") return Dtype::kF16;
  if (name == "float64") return Dtype::kF64;
  fields.refuse(key, "supported: float32, bfloat16, float16, float64");
}

// One id, a list of ids, or none. Llama 1 writes -1 for none.
std::vector<int64_t> token_ids(const ConfigFields& fields, std::string_view key, int64_t vocab_size) {
  const json* value = fields.get(key);
  if (!value || (!value->is_number_unsigned() && *value == -1)) return {};
  std::vector<int64_t> ids;
  for (const json& id : value->is_array() ? *value : json::array({*value})) {
    if (!id.is_number_integer() || id < 0 || id >= vocab_size) {
      fields.refuse(key, fmt::format("must be ids from 0 to {}", vocab_size - 1));
    }
    ids.push_back(id.get<int64_t>());
  }
  return ids;
}

std::optional<int64_t> token_id(const ConfigFields& fields, std::string_view key, int64_t vocab_size) {
  const auto ids = token_ids(fields, key, vocab_size);
  if (ids.size() > 1) fields.refuse(key, "must be one id");
  return ids.empty() ? std::nullopt : std::optional(ids.front());
}

void read_tokens(const ConfigFields& fields, const Family& family, ModelConfig& config) {
  const auto default_of = [&](std::string_view key, std::optional<int64_t> id) {
    return fields.is_absent(key) && id && *id < config.vocab_size ? id : std::nullopt;
  };
  config.bos_token_id = token_id(fields, "bos_token_id", config.vocab_size);
  config.pad_token_id = token_id(fields, "pad_token_id", config.vocab_size);
  config.eos_token_ids = token_ids(fields, "eos_token_id", config.vocab_size);
  if (const auto id = default_of("bos_token_id", family.bos_token_id)) config.bos_token_id = id;
  if (const auto id = default_of("eos_token_id", family.eos_token_id)) config.eos_token_ids = {*id};
}

ModelConfig from_json(const json& object, std::string_view place) {
  const ConfigFields fields(object, std::string(place));
  const Family& family = find_family(fields);
  refuse_unsupported(fields);
  ModelConfig config;
  config.model_type = family.model_type;
  config.architecture = family.architecture;
  read_sizes(fields, family, config);
  config.rms_norm_eps = fields.number("rms_norm_eps", kSmallestEps, 1).value_or(config.rms_norm_eps);
  config.tie_word_embeddings = fields.flag("tie_word_embeddings").value_or(false);
  config.dtype = read_dtype(fields);
  read_rope(fields, config);
  read_sliding_window(fields, config);
  read_biases(fields, config);
  read_tokens(fields, family, config);
  return config;
}

}  // namespace

ModelConfig parse_model_config(std::string_view json_text, std::string_view place) {
  return from_json(parse_json(json_text, place, kLimits), place);
}

ModelConfig read_model_config(const fs::path& model_dir) {
  const fs::path path = model_dir / "config.json";
  const json object = parse_json(read_file(path, kLimits.max_bytes), path.native(), kLimits);
  ModelConfig config = from_json(object, path.native());
  if (object.contains("auto_map")) {
    log_warning("{}: auto_map: the model's own Python code is ignored; the built-in {} is used", path.native(),
                config.architecture);
  }

  const fs::path generation = model_dir / "generation_config.json";
  if (!fs::exists(generation)) return config;
  const json generation_object = parse_json(read_file(generation, kLimits.max_bytes), generation.native(), kLimits);
  const ConfigFields fields(generation_object, generation.native());
  for (const int64_t id : token_ids(fields, "eos_token_id", config.vocab_size)) {
    if (std::ranges::find(config.eos_token_ids, id) == config.eos_token_ids.end()) config.eos_token_ids.push_back(id);
  }
  return config;
}

}  // namespace rankwise
