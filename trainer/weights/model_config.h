// The model's shape, from its config.json. Field names are Hugging Face's.
// Reads both spellings of transformers 4 and 5 (rope_theta and rope_parameters.rope_theta, torch_dtype and dtype).
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "trainer/weights/safetensors.h"

namespace rankwise {

// rope_type "llama3" (source: transformers modeling_rope_utils.py, _compute_llama3_parameters).
struct Llama3RopeScaling {
  double factor;
  double low_freq_factor;
  double high_freq_factor;
  int64_t original_max_position_embeddings;
};

struct ModelConfig {
  std::string model_type;    // llama | mistral | qwen2 | qwen3
  std::string architecture;  // LlamaForCausalLM, ...
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_hidden_layers = 0;
  int64_t num_attention_heads = 0;
  int64_t num_key_value_heads = 0;
  int64_t head_dim = 0;
  int64_t max_position_embeddings = 0;
  double rms_norm_eps = 1e-6;
  double rope_theta = 10000.0;
  std::optional<Llama3RopeScaling> rope_scaling;
  std::optional<double> linear_rope_factor;  // rope_type "linear"
  std::optional<int64_t> sliding_window;     // Mistral; Qwen2/3 where use_sliding_window is true
  std::vector<bool> layer_is_sliding;        // [num_hidden_layers]; all false without a window
  bool tie_word_embeddings = false;
  bool attention_bias = false;         // q, k, v have a bias (always in qwen2)
  bool attention_output_bias = false;  // o has one too (llama and qwen3 with attention_bias)
  bool mlp_bias = false;
  bool qk_norm = false;       // qwen3: RMSNorm over each head of q and k
  Dtype dtype = Dtype::kF32;  // as stored
  std::vector<int64_t> eos_token_ids;
  std::optional<int64_t> bos_token_id;
  std::optional<int64_t> pad_token_id;
};

// Pure. Throws DataError naming `place`, the field, its value and what is supported: unknown architecture, unsupported
// activation or rope type, sizes that are zero, negative, absurd or do not divide.
ModelConfig parse_model_config(std::string_view json_text, std::string_view place);
// DIR/config.json, eos ids completed from DIR/generation_config.json where present.
ModelConfig read_model_config(const std::filesystem::path& model_dir);

}  // namespace rankwise
