// model_config_tool DIR: what read_model_config makes of a model directory, as one JSON object.
// Exit codes are those of base/error.h; the message goes to stderr.
#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "trainer/weights/model_config.h"

namespace rankwise {
namespace {

using nlohmann::json;

template <typename T>
json or_null(const std::optional<T>& value) {
  return value ? json(*value) : json(nullptr);
}

void print_config(const char* directory) {
  const ModelConfig c = read_model_config(directory);
  json out = {{"vocab_size", c.vocab_size},
              {"hidden_size", c.hidden_size},
              {"intermediate_size", c.intermediate_size},
              {"num_hidden_layers", c.num_hidden_layers},
              {"num_attention_heads", c.num_attention_heads},
              {"num_key_value_heads", c.num_key_value_heads},
              {"head_dim", c.head_dim},
              {"max_position_embeddings", c.max_position_embeddings},
              {"rms_norm_eps", c.rms_norm_eps},
              {"tie_word_embeddings", c.tie_word_embeddings},
              {"rope_theta", c.rope_theta},
              {"linear_rope_factor", or_null(c.linear_rope_factor)},
              {"sliding_window", or_null(c.sliding_window)},
              {"layer_is_sliding", c.layer_is_sliding},
              {"attention_bias", c.attention_bias},
              {"attention_output_bias", c.attention_output_bias},
              {"mlp_bias", c.mlp_bias},
              {"qk_norm", c.qk_norm},
              {"dtype", dtype_name(c.dtype)},
              {"eos_token_ids", c.eos_token_ids},
              {"bos_token_id", or_null(c.bos_token_id)},
              {"pad_token_id", or_null(c.pad_token_id)}};
  if (c.rope_scaling) {
    out["llama3"] = {c.rope_scaling->factor, c.rope_scaling->low_freq_factor, c.rope_scaling->high_freq_factor,
                     c.rope_scaling->original_max_position_embeddings};
  }
  std::puts(out.dump().c_str());
}

}  // namespace
}  // namespace rankwise

int main(int argc, char** argv) {
  try {
    if (argc != 2) throw rankwise::UsageError("usage: model_config_tool DIR");
    rankwise::print_config(argv[1]);
    return 0;
  } catch (const rankwise::Error& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return static_cast<int>(e.code());
  }
}
